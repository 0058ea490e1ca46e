/** What a recipe's parameters come to for each tensor. */

import { WeightsmithError } from '../../util/errors.js'
import type { MergeMethod, ParameterScalar, ParameterSpec, TensorParameters } from '../methods/index.js'
import { evaluate, type Parameters } from '../recipe/index.js'

/** Evaluated parameters, as far as the recipe decides about them. */
export type Effective = Pick<TensorParameters, 'global' | 'models'>

/** The parameters of the tensor of this name at `t` (0: first layer, 1: last layer). */
export type Evaluation = (name: string, t: number) => Effective

/**
 * Evaluates by the name and place of a tensor; what is nearer to the model goes first: its own, the slice's, those
 * above (the module's, the recipe's), the default. Throws ERR_WEIGHTSMITH_RECIPE where the method needs what is
 * missing.
 */
export function evaluation(
  method: MergeMethod,
  above: readonly Parameters[],
  slice: Parameters,
  models: readonly { parameters: Parameters; path: string }[],
): Evaluation {
  const shared = [slice, ...above]
  const specs = (scope: ParameterSpec['scope']) => method.parameters.filter((spec) => spec.scope === scope)
  const [global, own] = [specs('global'), specs('model')]
  const effective: Evaluation = (name, t) => {
    const values = (wanted: ParameterSpec[], levels: readonly Parameters[], path: string) =>
      Object.fromEntries(wanted.map((spec) => [spec.name, resolved(spec, levels, { method, path, name, t })]))
    return {
      global: values(global, shared, 'parameters'),
      models: models.map(({ parameters, path }) => values(own, [parameters, ...shared], `${path}.parameters`)),
    }
  }
  const levels = [...shared, ...models.map(({ parameters }) => parameters)]
  if (levels.some((level) => Object.values(level).some(Array.isArray))) return effective
  // Without gradients and filters all tensors have the same ones.
  let same: Effective | undefined
  return (name, t) => {
    same ??= effective(name, t)
    return same
  }
}

function resolved(
  spec: ParameterSpec,
  levels: readonly Parameters[],
  { method, path, name, t }: { method: MergeMethod; path: string; name: string; t: number },
): ParameterScalar | undefined {
  for (const level of levels) {
    const value = level[spec.name]
    const found = value === undefined ? undefined : evaluate(value, name, t)
    if (found !== undefined) return found
  }
  if (spec.default !== undefined || spec.optional) return spec.default
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_RECIPE',
    `${path}.${spec.name} of the recipe should be a ${spec.type}, which method ${method.name} needs, but is missing ` +
      `for tensor ${name}.`,
    { tensor: name },
  )
}
