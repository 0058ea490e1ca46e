/** What of a model is trained: the matrices that get an adapter, as PEFT names them, or the tensors themselves. */

import type { ModelSpec } from '../architectures/index.js'
import { misuse, wrongOption } from '../util/errors.js'

export interface TargetOptions {
  /**
   * Modules that get an adapter: ends of their names, such as `q_proj`; or a text, which is a regular expression for
   * whole names as PEFT takes it, or `all-linear`. Defaults to all-linear, every linear layer of the language model but
   * the head.
   */
  targets?: string | readonly string[] | undefined
  /** Layers that are trained, from 0 on; of the other tensors none is, then. Defaults to all. */
  layers?: readonly number[] | undefined
}

/**
 * Weights of the modules that get an adapter, in the order of the model. Throws ERR_WEIGHTSMITH_ARGUMENT for targets
 * that match no module, with the names that there are.
 */
export function adapterTargets(
  spec: ModelSpec,
  { targets = 'all-linear', layers }: TargetOptions,
  model: string,
): string[] {
  const wanted = layersOf(layers, spec.language.layers.length)
  const all = spec.language.layers.flatMap(({ ops }, layer) =>
    ops.flatMap((op) => (op.op === 'linear' ? [{ layer, module: op.weight.replace(/\.weight$/, '') }] : [])),
  )
  const matches = matcherOf(targets)
  const unused = (Array.isArray(targets) ? targets : [targets]).filter(
    (target) => !all.some(({ module }) => matcherOf(Array.isArray(targets) ? [target] : target)(module)),
  )
  if (unused.length > 0) {
    const ends = [...new Set(all.map(({ module }) => module.slice(module.lastIndexOf('.') + 1)))]
    throw misuse(`No linear layer of ${model} is a target ${unused.join(' or ')}; there are ${ends.join(', ')}.`)
  }
  const chosen = all.filter(({ layer, module }) => wanted.has(layer) && matches(module))
  if (chosen.length === 0) {
    const where = layers === undefined ? '' : ` in the layers ${layers.join(', ')}`
    throw misuse(`No linear layer of ${model} is a target${where}; give at least one.`)
  }
  return chosen.map(({ module }) => `${module}.weight`)
}

function matcherOf(targets: string | readonly string[]): (module: string) => boolean {
  if (targets === 'all-linear') return () => true
  if (typeof targets !== 'string') {
    return (module) => targets.some((target) => module === target || module.endsWith(`.${target}`))
  }
  let pattern: RegExp
  try {
    pattern = new RegExp(`^(?:${targets})$`)
  } catch {
    throw wrongOption('the targets', 'names of modules, all-linear, or a regular expression', targets)
  }
  return (module) => pattern.test(module)
}

/** Tensors that full training changes: all of the language model, or those of some layers. */
export function fullTargets(spec: ModelSpec, { layers }: Pick<TargetOptions, 'layers'>): string[] {
  const { language, head } = spec
  const namesOf = (ops: readonly object[]) =>
    ops.flatMap((op) => {
      const { table, weight, bias } = op as { table?: string; weight?: string; bias?: string }
      return [table, weight, bias].filter((name) => name !== undefined)
    })
  const wanted = layersOf(layers, language.layers.length)
  const within = language.layers.flatMap(({ ops }, layer) => (wanted.has(layer) ? namesOf(ops) : []))
  if (layers !== undefined) return within
  return [...new Set([...namesOf(language.embed), ...within, ...namesOf(language.final), head.weight])]
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT for layers that are not there. */
function layersOf(layers: readonly number[] | undefined, depth: number): Set<number> {
  const wrong = layers?.find((layer) => !(Number.isInteger(layer) && layer >= 0 && layer < depth))
  if (wrong !== undefined) throw wrongOption('the layers', `numbers from 0 to ${depth - 1}`, wrong)
  if (layers?.length === 0) throw wrongOption('the layers', `at least one of 0 to ${depth - 1}`, 'none')
  return new Set(layers ?? Array.from({ length: depth }, (_, i) => i))
}
