/**
 * A recipe for any merge method of the registry, derived from its own list of parameters, so that a new method is
 * measured without a word here. Defaults stay, but for the few below, which make a method do its whole work.
 */
const usual = { weight: 0.5, density: 0.5, t: 0.4 }

function parameterValue(spec, base) {
  if (spec.name in usual) return usual[spec.name]
  if (spec.default !== undefined || spec.optional) return undefined
  if (spec.type === 'boolean') return true
  if (spec.type === 'choice') return spec.values[0]
  if (spec.type === 'model') return base
  if (spec.type === 'number') return Math.min(spec.max ?? 0.5, Math.max(spec.min ?? 0.5, 0.5))
  throw new Error(`the method needs ${spec.name} (${spec.about})`)
}

function parametersOf(method, scope, base) {
  const entries = method.parameters
    .filter((spec) => spec.scope === scope)
    .map((spec) => [spec.name, parameterValue(spec, base)])
    .filter(([, value]) => value !== undefined)
  return Object.fromEntries(entries)
}

/** How many of three checkpoints (a base and two siblings) a method merges, its base included. */
export function checkpointsOf(method) {
  return Math.min(3, method.models.max + (method.needsBase ? 1 : 0))
}

/**
 * The method's recipe over the first `count` of `paths`, the first of which is the base. Throws where a parameter
 * cannot be made up.
 */
export function recipeFor(method, paths, count = checkpointsOf(method)) {
  if (method.statistics === 'inputs') {
    throw new Error(
      'the method needs Gram matrices of the inputs; without them it is an average, which linear measures',
    )
  }
  const [base] = paths
  const least = method.models.min + (method.needsBase ? 1 : 0)
  if (count < least) throw new Error(`the method merges at least ${least} checkpoints`)
  const models = paths.slice(method.needsBase ? 1 : 0, count)
  return {
    merge_method: method.name,
    ...(method.needsBase ? { base_model: base } : {}),
    models: models.map((model) => ({ model, parameters: parametersOf(method, 'model', base) })),
    parameters: parametersOf(method, 'global', base),
    dtype: 'bfloat16',
  }
}
