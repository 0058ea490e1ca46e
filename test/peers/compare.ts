/** The golden cases of other mergers (see README.md), and how a result is held against one. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { RecipeInput } from 'weightsmith'
import { type Raw, readSafetensors, values } from '../checkpoint.js'
import * as reference from '../reference/merge.js'
import { fusion } from '../reference/sparse.js'

export const goldens = join(process.cwd(), 'test/peers/goldens')

export interface GoldenCase {
  name: string
  method: string
  /** Program and version that the numbers come from. */
  peer: string
  /** Paths of models start from the folder of the goldens. */
  recipe: RecipeInput
  /** Largest error, as a share of |golden| + the largest |input| of the element; 0: the same bits. */
  tolerance: number
  /** The method picks entries: the golden ones have to be picked, except where they tie at a cut. */
  cut?: true
  /** Elements a tensor that tie (for `variance` and the like: nearly) at a cut, so that either choice is right. */
  tied?: Record<string, number>
  note?: string
  /** What the peer does wrong, or otherwise than this program by design; `corrections` has the values of this one. */
  differs?: string
}

export const cases = (JSON.parse(readFileSync(join(goldens, 'goldens.json'), 'utf8')) as { cases: GoldenCase[] }).cases

const inputs = new Map(
  readdirSync(join(goldens, 'models')).map((name) => [
    `models/${name}`,
    readSafetensors(join(goldens, 'models', name, 'model.safetensors')),
  ]),
)

export function input(model: string, tensor: string): Float64Array {
  return values(inputs.get(`models/${model}`)!.get(tensor)!)
}

const names = [...inputs.get('models/base')!.keys()]
const query = 'model.layers.0.self_attn.q_proj.weight'
const out = 'model.layers.0.self_attn.o_proj.weight'
const down = 'model.layers.0.mlp.down_proj.weight'

/** The values, in float64, of the tensors where the peer has others. */
export const corrections: Record<string, Record<string, () => Float64Array>> = {
  'edge-nuslerp-base': {
    [query]: () =>
      reference.delta(input('edge', query), [input('edge1', query), input('edge2', query)], [2 / 3, 1 / 3]),
  },
  'edge-karcher': { [down]: () => reference.linear([input('edge1', down), input('edge2', down)], [0.5, 0.5]) },
  'multislerp-eps': each(names, (name) => multislerp([input('m1', name), input('m2', name)], 0.01)),
  'edge-arcee_fusion': {
    // Differences below 1e-13, and of 1e-5 at most.
    [down]: () => fusion(input('edge', down), input('edge1', down), 3).fused,
    [out]: () => fusion(input('edge', out), input('edge1', out), 6).fused,
  },
  'ties-sparse': each(
    names.filter((name) => input('base', name).length < 100), // int(0.01 n) is 0
    (name) => input('base', name),
  ),
}

function each(tensors: string[], values: (name: string) => Float64Array): Record<string, () => Float64Array> {
  return Object.fromEntries(tensors.map((name) => [name, () => values(name)]))
}

/** Of equal weights, without a base: the mean direction, at the mean length. */
function multislerp(models: Float64Array[], eps: number): Float64Array {
  const length = (x: Float64Array) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0))
  const mean = reference.linear(
    models,
    models.map((x) => 1 / models.length / (length(x) + eps)),
  )
  const size = models.reduce((sum, x) => sum + length(x) / models.length, 0)
  return mean.map((v) => (v * size) / length(mean))
}

export interface Comparison {
  /** Names on one side only. */
  unmatched: string[]
  /** Largest error in the unit of the tolerance, ties at cuts left out. */
  worst: number
  /** What lies outside the tolerance (or, of a cut, was picked differently) beyond the ties. */
  wrong: { tensor: string; elements: number; first: string }[]
}

export function compare(golden: GoldenCase, got: Map<string, Raw>): Comparison {
  const want = readSafetensors(join(goldens, 'outputs', `${golden.name}.safetensors`))
  const unmatched = [...got.keys()].filter((name) => !want.has(name))
  const result: Comparison = { unmatched, worst: 0, wrong: [] }
  for (const [tensor, raw] of want) {
    const merged = got.get(tensor)
    if (merged === undefined || `${merged.shape}` !== `${raw.shape}` || merged.dtype !== raw.dtype) {
      unmatched.push(tensor)
      continue
    }
    const [x, g] = [values(merged), corrections[golden.name]?.[tensor]?.() ?? values(raw)]
    const scale = largestInput(golden, tensor, g.length)
    const base = golden.cut ? values(inputs.get(golden.recipe.base_model!)!.get(tensor)!) : undefined
    const tied = golden.tied?.[tensor] ?? 0
    const errors: number[] = []
    const off: number[] = []
    for (let i = 0; i < g.length; i++) {
      const error = x[i] === g[i] ? 0 : Math.abs(x[i]! - g[i]!) / (Math.abs(g[i]!) + scale[i]!)
      const picked = base === undefined || (x[i] === base[i]) === (g[i] === base[i])
      if (!(error <= golden.tolerance) || !picked) off.push(i)
      errors.push(error)
    }
    if (off.length > tied) {
      const i = off[0]!
      result.wrong.push({ tensor, elements: off.length, first: `[${i}] ${x[i]}, golden ${g[i]}` })
    }
    const excepted = new Set(off.length > tied ? [] : off)
    result.worst = errors.reduce((most, error, i) => (excepted.has(i) ? most : Math.max(most, error)), result.worst)
  }
  return result
}

/** The largest magnitude that goes into each element; where a recipe moves layers, that of any layer. */
function largestInput({ recipe }: GoldenCase, tensor: string, length: number): Float64Array {
  const part = /^model\.layers\.\d+\.(.*)$/.exec(tensor)?.[1]
  const names = recipe.slices && part ? [0, 1, 2].map((layer) => `model.layers.${layer}.${part}`) : [tensor]
  const sources = recipe.models ?? recipe.slices?.flatMap((slice) => slice.sources) ?? []
  const models = new Set([...sources.map(({ model }) => model), ...(recipe.base_model ? [recipe.base_model] : [])])
  const all = [...models].flatMap((model) => names.map((name) => values(inputs.get(model)!.get(name)!)))
  return Float64Array.from({ length }, (_, i) => Math.max(...all.map((x) => Math.abs(x[i]!))))
}
