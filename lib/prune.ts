/** `prune`: a checkpoint without its least important weights, heads and neurons, or blocks. */

import { type Checkpoint, type Content, cutTensor, isStorable, layerOf, outputConfig } from './checkpoint/index.js'
import type { Adapter, Engine, Host } from './engine.js'
import { WeightsmithError } from './errors.js'
import { describe, inputsOf, type ModelSpec, type Units, withBiases, withWidths } from './families/index.js'
import { apply } from './forward/apply.js'
import { checkpointOf, modelOf } from './forward.js'
import { layerLists } from './plan/index.js'
import {
  checkSparsity,
  columnScores,
  type KeptUnits,
  keepGlobal,
  keepLocal,
  leastBlocks,
  leastRun,
  type Products,
  parsePattern,
  productsOf,
  type ScoredUnits,
  sparseGptTensor,
  sparseTensor,
  type WidthMetric,
} from './prune/index.js'
import { type Rewritten, rewrite } from './rewrite.js'
import { readScores, type Scores } from './score/index.js'

/** What goes: single weights, heads and neurons, or blocks. */
export const pruneMethods = {
  magnitude: 'weights',
  wanda: 'weights',
  sparsegpt: 'weights',
  flap: 'widths',
  'wanda-sp': 'widths',
  bi: 'blocks',
  angular: 'blocks',
  ablation: 'blocks',
} as const

export type PruneMethod = keyof typeof pruneMethods

export interface PruneOptions {
  /** Folder of the result. */
  out: string
  method: PruneMethod
  /** A file of `score` with what the method needs; `magnitude` needs none. */
  scores?: string | undefined
  /** Weights: the share that goes. Defaults to 0.5. */
  sparsity?: number | undefined
  /** Weights: `2:4`, of each 4 neighbours in a row 2 stay; goes before `sparsity`. */
  pattern?: string | undefined
  /** Heads and neurons: the share of their parameters that stays. Defaults to 0.75. */
  keep?: number | undefined
  /** Heads and neurons: one order over the whole model (`global`, default of flap), or as many in every layer (`local`). */
  widths?: 'global' | 'local' | undefined
  /** Of flap: `wifv` (default), `wifn` or `ifv`. */
  metric?: Exclude<WidthMetric, 'wanda-sp'> | undefined
  /** Of flap: add what pruned inputs gave on average as a bias. Defaults to true. */
  bias?: boolean | undefined
  /** Blocks: how many go. Defaults to 1. */
  remove?: number | undefined
  /** Of ablation: over `all` tokens (default), or those of the `answer`. */
  tokens?: 'all' | 'answer' | undefined
  /** Zeros in tensors of the same shapes (`masked`), or smaller tensors (`compact`). Defaults to `masked`. */
  layout?: 'masked' | 'compact' | undefined
  overwrite?: boolean | undefined
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Bytes written, of all. */
  onProgress?: ((done: number, total: number) => void) | undefined
}

export interface PruneReport extends Partial<Rewritten> {
  model: string
  out: string
  method: PruneMethod
  dryRun: boolean
  layout: 'masked' | 'compact'
  parameters: { before: number /** That are not pruned. */; after: number }
  /** Heads and neurons that stay, by layer, and which go. */
  units?: { layer: number; kind: Units['kind']; kept: number; dropped: number[] }[]
  /** Blocks that go. */
  blocks?: number[]
  notes: string[]
  adapter: Adapter['info']['device']
  milliseconds: number
}

/** What is decided, before anything is written. */
interface Decision {
  tensors: Map<string, Content | null>
  config: Record<string, unknown> | undefined
  removed: number
  about: string
  report: Pick<PruneReport, 'units' | 'blocks'>
  notes: string[]
}

interface Subject {
  host: Host
  checkpoint: Checkpoint
  spec: ModelSpec
  scores: Scores | undefined
}

/**
 * Writes the pruned checkpoint. Throws ERR_WEIGHTSMITH_INPUT_CHANGED for scores of another model,
 * ERR_WEIGHTSMITH_MISSING_TENSOR for scores that the method needs and the file has not, ERR_WEIGHTSMITH_ARGUMENT where a
 * layer would be empty or the model has no place for the result.
 */
export async function prune(engine: Engine, path: string, options: PruneOptions): Promise<PruneReport> {
  const begin = performance.now()
  const { method, out, dryRun = false, layout = 'masked' } = options
  const kind = checkOptions(options)
  const checkpoint = await checkpointOf(engine, path)
  const { spec } = modelOf(engine, checkpoint, { tokens: 1 })
  return engine.use(async (host) => {
    const scores = options.scores === undefined ? undefined : await readScores(host.addon, options.scores, checkpoint)
    const subject = { host, checkpoint, spec, scores }
    const decide = { weights: pruneWeights, widths: pruneWidths, blocks: pruneBlocks }[kind]
    const { tensors, config, removed, about, report, notes } = await decide(subject, options)
    const before = [...checkpoint.tensors.values()].reduce((sum, { shape }) => sum + elementsOf(shape), 0)
    const common = {
      model: path,
      out,
      method,
      dryRun,
      layout,
      parameters: { before, after: before - removed },
      ...report,
      notes,
      adapter: engine.adapter.info.device,
    }
    if (dryRun) return { ...common, milliseconds: performance.now() - begin }
    const { overwrite, signal, onProgress } = options
    const recipe = { prune: recipeOf(options, scores) }
    const written = await rewrite(host, checkpoint, {
      out,
      tensors,
      config,
      recipe,
      about: [about, ...notes].join(' '),
      overwrite,
      signal,
      onProgress,
    })
    return { ...common, ...written, milliseconds: performance.now() - begin }
  })
}

function checkOptions({ method, scores, layout = 'masked', widths = 'global', keep = 1 }: PruneOptions) {
  if (!Object.hasOwn(pruneMethods, method)) {
    throw argument(`A method of pruning is one of ${Object.keys(pruneMethods).join(', ')}, but "${method}" was found.`)
  }
  const kind = pruneMethods[method]
  if (scores === undefined && method !== 'magnitude') {
    throw argument(`The method ${method} needs a score file; make one with score --method ${scoredBy[method]}.`)
  }
  if (!['masked', 'compact'].includes(layout)) throw argument(`The layout is masked or compact, not "${layout}".`)
  if (!['global', 'local'].includes(widths)) throw argument(`The widths are global or local, not "${widths}".`)
  if (!(keep > 0 && keep <= 1)) throw argument(`To keep ${keep} of heads and neurons is not between 0 and 1.`)
  if (kind === 'weights' && layout === 'compact') {
    throw argument('Single weights become zeros; only heads, neurons and blocks can be left out (--layout compact).')
  }
  return kind
}

const scoredBy: Record<PruneMethod, string> = {
  magnitude: 'magnitude',
  wanda: 'wanda',
  sparsegpt: 'gram',
  flap: 'flap',
  'wanda-sp': 'wanda',
  bi: 'bi',
  angular: 'angular',
  ablation: 'ablation',
}

/** What decides about the result, for the manifest. */
function recipeOf(
  { out, overwrite, dryRun, signal, onProgress, ...options }: PruneOptions,
  scores: Scores | undefined,
) {
  return { ...options, ...(scores === undefined ? {} : { scored: scores.info }) }
}

async function pruneWeights({ host, checkpoint, spec, scores }: Subject, options: PruneOptions): Promise<Decision> {
  const pattern = options.pattern === undefined ? undefined : parsePattern(options.pattern)
  const sparsity = { share: options.sparsity ?? 0.5, pattern }
  const tensors = new Map<string, Content>()
  let removed = 0
  /** Of linears that share an input, which are written close to each other: the last two are kept. */
  const known = new Map<string, Promise<Products>>()
  const products = (first: string): Promise<Products> => {
    const found =
      known.get(first) ?? (scores as Scores).read(`gram/${first}`).then((gram) => productsOf(host.addon, gram))
    known.delete(first)
    known.set(first, found)
    for (const [old] of [...known].slice(0, -2)) known.delete(old)
    return found
  }
  const shared = spec.language.layers.flatMap((layer) => inputsOf(layer))
  for (const [name, first] of shared.flatMap((names) => names.map((name) => [name, names[0] ?? name] as const))) {
    const tensor = checkpoint.tensors.get(name)
    if (tensor === undefined) continue
    checkSparsity(sparsity, tensor)
    const needs = (kind: string, owner: string) => (scores as Scores).read(`${kind}/${owner}`)
    const norms = options.method === 'wanda' ? await needs('norm', name) : undefined
    if (options.method === 'sparsegpt') {
      if (scores?.tensors.has(`gram/${first}`) !== true) await needs('gram', first)
      tensors.set(
        name,
        sparseGptTensor(host, checkpoint, tensor, sparsity, () => products(first)),
      )
    } else tensors.set(name, sparseTensor(host, checkpoint, tensor, sparsity, norms))
    const [rows = 0, columns = 0] = tensor.shape
    removed +=
      pattern !== undefined
        ? (rows * columns * (pattern.of - pattern.stay)) / pattern.of
        : options.method === 'wanda'
          ? rows * Math.floor(sparsity.share * columns)
          : rows * columns - Math.floor((1 - sparsity.share) * rows * columns)
  }
  const what = pattern === undefined ? `a share of ${sparsity.share}` : `all but ${pattern.stay} of each ${pattern.of}`
  return {
    tensors,
    config: undefined,
    removed,
    about: `Weights with the least scores by ${options.method} are zeros${options.method === 'sparsegpt' ? ', and others make up for them' : ''}: ${what} in every linear of the layers.`,
    report: {},
    notes: [],
  }
}

/** Units of all layers with the scores of their columns. */
async function scoreUnits({ checkpoint, spec, scores }: Subject, metric: WidthMetric): Promise<ScoredUnits[]> {
  const scored: ScoredUnits[] = []
  for (const [layer, { units }] of spec.language.layers.entries()) {
    for (const unit of units) {
      for (const { tensor } of unit.columns) {
        const read = (kind: string) => (scores as Scores).read(`${kind}/${tensor}`)
        const columns = columnScores(
          metric,
          {
            absolute: await read('absolute'),
            squares: await read('squares'),
            ...(metric === 'wanda-sp' ? { norm: await read('norm') } : { fluctuation: await read('fluctuation') }),
          },
          checkpoint.tensors.get(tensor)?.shape[0] ?? 1,
        )
        scored.push({ layer, units: unit, columns })
      }
    }
  }
  return scored
}

async function pruneWidths(subject: Subject, options: PruneOptions): Promise<Decision> {
  const { checkpoint, spec } = subject
  const { method, keep = 0.75, metric = 'wifv', layout = 'masked' } = options
  const flap = method === 'flap'
  const { widths = flap ? 'global' : 'local', bias = flap } = options
  const scored = await scoreUnits(subject, flap ? metric : 'wanda-sp')
  const kept = widths === 'global' ? keepGlobal(scored, keep, spec) : keepLocal(scored, keep)
  const tensors = new Map<string, Content | null>()
  let removed = 0
  for (const { units, kept: stays } of kept) {
    for (const [side, parts] of [
      ['rows', units.rows],
      ['columns', units.columns],
    ] as const) {
      for (const { tensor: name, size } of parts) {
        const tensor = checkpoint.tensors.get(name)
        if (tensor === undefined || stays.every((stay) => stay)) continue
        const those = (stay: boolean) =>
          stays.flatMap((own, unit) => (own === stay ? Array.from({ length: size }, (_, i) => unit * size + i) : []))
        const cut =
          layout === 'compact'
            ? { [side]: those(true) }
            : { [side === 'rows' ? 'zeroRows' : 'zeroColumns']: those(false) }
        tensors.set(name, cutTensor(checkpoint, tensor, cut))
        removed += (elementsOf(tensor.shape) * those(false).length) / (stays.length * size)
      }
    }
  }
  const notes: string[] = []
  let config = layout === 'compact' ? narrowed(subject, kept, notes) : undefined
  if (bias) config = (await addBiases(subject, kept, tensors, config)) ?? config
  return {
    tensors,
    config,
    removed,
    about:
      `Heads and neurons with the least scores by ${method} are ${layout === 'compact' ? 'left out' : 'zeros'}: of their ` +
      `parameters a share of ${keep} was to stay, ${widths === 'global' ? 'over the whole model' : 'in every layer'}.`,
    report: {
      units: kept.map(({ layer, units: { kind }, kept: stays }) => ({
        layer,
        kind,
        kept: stays.filter((stay) => stay).length,
        dropped: stays.flatMap((stay, unit) => (stay ? [] : [unit])),
      })),
    },
    notes,
  }
}

/** The config of a compact model; says which tools load it. */
function narrowed({ checkpoint, spec }: Subject, kept: readonly KeptUnits[], notes: string[]) {
  const { heads, groups, headSize } = spec.language.attention
  const widths = Array.from(spec.language.layers, (_, layer) => {
    const count = (kind: Units['kind']) =>
      kept.find((own) => own.layer === layer && own.units.kind === kind)?.kept.filter((stay) => stay).length ?? 0
    return { heads: (count('group') * heads) / groups, groups: count('group'), inner: count('neuron') }
  })
  const config = withWidths(checkpoint.config ?? {}, widths, headSize)
  if (config === undefined) {
    throw argument(`The config of ${checkpoint.name} has no keys for other widths; write it masked (--layout masked).`)
  }
  const uniform = widths.every((own) => JSON.stringify(own) === JSON.stringify(widths[0]))
  notes.push(
    uniform
      ? 'All layers have the same widths, and the config says them with the usual keys: transformers, vLLM and others load it.'
      : 'Layers have widths of their own, which layer_shapes of the config says: Weightsmith runs it; transformers, vLLM and ' +
          'others do not load it (for them write it masked, or with local widths).',
  )
  return config
}

/** Biases that stand for what the pruned inputs gave on average; the config that has room for them, where it had none. */
async function addBiases(
  { host, checkpoint, spec, scores }: Subject,
  kept: readonly KeptUnits[],
  tensors: Map<string, Content | null>,
  narrow: Record<string, unknown> | undefined,
): Promise<Record<string, unknown> | undefined> {
  const owners = kept.flatMap(({ units, kept: stays }) =>
    units.columns.map(({ tensor, size }) => ({ weight: tensor, size, stays, bias: tensor.replace(/weight$/, 'bias') })),
  )
  const changed = owners.filter(({ stays }) => stays.includes(false))
  if (changed.length === 0) return undefined
  const without = changed.find(({ bias }) => !checkpoint.tensors.has(bias))
  let config: Record<string, unknown> | undefined
  if (without !== undefined) {
    config = withBiases(narrow ?? checkpoint.config ?? {})
    if (config === undefined) {
      throw argument(
        `${checkpoint.name} is a ${spec.architecture}, which has no bias beside ${without.weight}; prune it without ` +
          'compensation (--no-bias).',
      )
    }
    // The switch gives all linears biases; those that compensate nothing are zeros.
    for (const [name, shape] of describe(config, checkpoint.tensors, checkpoint.name).tensors) {
      if (checkpoint.tensors.has(name)) continue
      const dtype = checkpoint.tensors.get(name.replace(/bias$/, 'weight'))?.dtype ?? 'F32'
      tensors.set(name, await stored(host, dtype, new Float32Array(elementsOf(shape))))
    }
  }
  for (const { weight, size, stays, bias } of changed) {
    const tensor = checkpoint.tensors.get(weight)
    if (tensor === undefined) continue
    if (!isStorable(tensor.dtype))
      throw argument(`The tensor ${weight} is stored as ${tensor.dtype}, and cannot be run.`)
    const mean = await (scores as Scores).read(`mean/${weight}`)
    const lost = mean.map((value, column) => (stays[Math.floor(column / size)] === true ? 0 : value))
    const given = checkpoint.tensors.get(bias)
    const sum = await apply(host.device, checkpoint, tensor, lost)
    tensors.set(bias, await stored(host, tensor.dtype, sum, given && cutTensor(checkpoint, given)))
  }
  return config
}

/** Values as a tensor of a type, added to one that is there. */
async function stored(
  { device, memory }: Host,
  dtype: string,
  values: Float32Array,
  before?: Content,
): Promise<Content> {
  const size = values.length * (dtype === 'F32' ? 4 : 2)
  const result = new Uint8Array(size)
  const chunks: Uint8Array[] = []
  for await (const chunk of before?.bytes() ?? []) chunks.push(chunk)
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  const inputs = [
    { memory: bytes, dtype: 'F32' },
    ...(before ? [{ memory: new Uint8Array(Buffer.concat(chunks)), dtype: before.dtype }] : []),
  ]
  const job = device.run({
    inputs: inputs.map(({ memory: own }) => ({ memory: own })),
    outputs: [{ memory: result }],
    programs: [{ kernels: [{ kernel: 'linear', writes: 'output' }] }],
    jobs: [
      {
        name: '',
        program: 0,
        elements: values.length,
        inputs: inputs.map((input, place) => ({ place, offset: 0, dtype: input.dtype })),
        variants: [{ coefficients: inputs.map(() => 1), output: { place: 0, offset: 0, dtype } }],
      },
    ],
    memory,
    seed: 0,
    checksum: false,
    sync: false,
  })
  await job.done
  return {
    dtype,
    shape: [values.length],
    size,
    async *bytes() {
      yield result
    },
  }
}

async function pruneBlocks({ checkpoint, spec, scores }: Subject, options: PruneOptions): Promise<Decision> {
  const { method, remove = 1, tokens = 'all', layout = 'masked' } = options
  const layers = spec.language.layers.length
  const read = (name: string) => (scores as Scores).read(name)
  const blocks =
    method === 'bi'
      ? leastBlocks(await read('block_influence'), remove)
      : method === 'ablation'
        ? leastBlocks(await read(`importance/${tokens}`), remove)
        : leastRun(remove < layers && remove > 0 ? await read(`angular/${remove}`) : [], remove, layers)
  const gone = new Set(blocks)
  const tensors = new Map<string, Content | null>()
  let removed = 0
  for (const tensor of checkpoint.tensors.values()) {
    const layer = layerOf(tensor.name)
    if (layer === undefined || layer.stack !== checkpoint.stack) continue
    if (gone.has(layer.index)) removed += elementsOf(tensor.shape)
  }
  if (layout === 'compact') {
    const moved = new Map<string, Content>()
    for (const tensor of checkpoint.tensors.values()) {
      const layer = layerOf(tensor.name)
      if (layer === undefined || layer.stack !== checkpoint.stack) continue
      tensors.set(tensor.name, null)
      if (gone.has(layer.index)) continue
      const index = layer.index - blocks.filter((block) => block < layer.index).length
      moved.set(`${layer.stack}.${index}.${layer.rest}`, cutTensor(checkpoint, tensor))
    }
    for (const [name, content] of moved) tensors.set(name, content)
  } else {
    // What a block adds to the residual stream is zero.
    for (const layer of blocks) {
      let cleared = 0
      for (const op of spec.language.layers[layer]?.ops ?? []) {
        if (op.op !== 'linear' || !addsTo(spec, layer, op.y)) continue
        for (const name of [op.weight, ...(op.bias === undefined ? [] : [op.bias])]) {
          const tensor = checkpoint.tensors.get(name)
          if (tensor === undefined) continue
          const zeroRows = Array.from({ length: tensor.shape[0] ?? 0 }, (_, row) => row)
          tensors.set(name, cutTensor(checkpoint, tensor, { zeroRows }))
          cleared++
        }
      }
      if (cleared === 0) {
        throw argument(
          `Block ${layer} of ${checkpoint.name} changes its input whatever its weights; leave it out (--layout compact).`,
        )
      }
    }
  }
  const kept = Array.from({ length: layers }, (_, layer) => layer).filter((layer) => !gone.has(layer))
  const change = { dtype: undefined, layers: [layerLists(checkpoint, kept)], vocabulary: undefined }
  return {
    tensors,
    config: layout === 'compact' && checkpoint.config ? outputConfig(checkpoint.config, change) : undefined,
    removed,
    about: `The blocks ${blocks.join(', ')} of ${layers} are ${layout === 'compact' ? 'left out' : 'without effect'}, chosen by ${method}.`,
    report: { blocks },
    notes: [],
  }
}

/** Whether an activation is added to the residual stream right away. */
function addsTo(spec: ModelSpec, layer: number, activation: string): boolean {
  return spec.language.layers[layer]?.ops.some((op) => op.op === 'add' && op.y === activation) === true
}

function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

function argument(message: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', message)
}
