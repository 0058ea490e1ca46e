/**
 * A model with a LoRA adapter, as a checkpoint that a recipe can name (`model+adapter`). Its adapted weights are
 * derived tensors (adapted.ts). Where the merge only moves or converts such a weight, the kernel writes the output
 * itself, rounding once; where a method combines it with others, it is made first, in float32, because kernels of
 * methods read stored elements (a method that took A and B as further inputs would be a kernel for each method and
 * number of adapters). The price is a file as large as the adapted weights in float32.
 */

import {
  type Checkpoint,
  type CheckpointTensor,
  layerOf,
  outputConfig,
  refuseQuantised,
} from '../../checkpoint/index.js'
import { type Adapter, type LowRank, readValues, refuseStart } from '../../lora/index.js'
import type { NativeAddon } from '../../native/border.js'
import { WeightsmithError } from '../../util/errors.js'
import { added, type Change, changed, expertPair, lengthened, type Pair, pairOf } from './adapted.js'
import { Files, isDerived, sameShape, storedType } from './derived.js'
import type { Origin } from './planned.js'
import { arrange } from './rows.js'
import { type Tie, tieOf, untied, weightOf } from './tie.js'
import { isVocabulary } from './vocabulary.js'

/** What starts of adapters are computed by. */
type Starts = Pick<NativeAddon, 'adapterStart'>

export interface AdapterUse {
  adapter: Adapter
  /** Factor of the change; negative ones take it back. Defaults to 1. */
  weight?: number
  /** Give a model with one table for embedding and head two of them, where the adapter changes one. Default: refuse. */
  untie?: boolean
  /** Let the vocabulary grow with the rows of the adapter's tables. Defaults to true. */
  resize?: boolean
}

export async function withAdapter(addon: Starts, name: string, base: Checkpoint, use: AdapterUse): Promise<Checkpoint> {
  const { adapter, weight = 1, untie = false, resize = true } = use
  const files = new Files()
  const tensors = new Map<string, CheckpointTensor>()
  for (const [key, tensor] of base.tensors) tensors.set(key, files.take(tensor, base))
  // Inputs are told by the files of checkpoints: what the manifest lists, and no output may replace.
  for (const file of adapter.checkpoint.files) if (file.memory === undefined) files.add(file)
  refuseQuantised(base, 'convert it to float16 or bfloat16 before an adapter is added to it')
  if (weight !== 1) refuseScaled(base, adapter, weight)
  const tie = tieOf(base)
  refuseAbsent(base, adapter, tie)
  const made = new Set<string>()
  const put = (key: string, tensor: CheckpointTensor) => {
    if (made.has(key)) throw refused(base, adapter, `two of its tensors change ${key}`, key)
    made.add(key)
    tensors.set(key, tensor)
  }
  for (const [target, tensor] of adapter.replaced) {
    const { key, tensor: own } = find(target, base, adapter, tie)
    refuseMisfit(key, own, tensor, adapter)
    put(key, files.take(tensor, adapter.checkpoint))
  }
  for (const [target, rows] of adapter.tokens) {
    const { key, tensor } = find(target, base, adapter, tie)
    put(key, files.take(withRows(key, { checkpoint: base, tensor }, rows, adapter), base))
  }
  for (const [target, { tensor, scale }] of adapter.biases) {
    const { key, tensor: own } = find(target, base, adapter, tie)
    refuseMisfit(key, own, tensor, adapter)
    put(key, added(key, { checkpoint: base, tensor: own }, { checkpoint: adapter.checkpoint, tensor }, scale * weight))
  }
  for (const matrix of adapter.matrices) {
    for (const part of partsOf(matrix, base, adapter, tie)) {
      const own = part.key === tie?.table || part.key === tie?.head
      if (own && !untie) {
        throw refused(
          base,
          adapter,
          `it was trained with ${tie?.table} and the head apart, but ${base.name} has one table for both; fold it with ` +
            '--untie, or store the head there as a tensor of its own (tie_word_embeddings: false)',
          part.key,
        )
      }
      put(part.key, await adapted(addon, part, base, adapter, matrix, weight))
    }
  }
  let { config } = base
  if (tie !== undefined && (made.has(tie.table) || made.has(tie.head))) {
    // Rows of tokens are of the one table; all else that PEFT trains is a copy, so the other keeps what the base has.
    const shared = [...adapter.tokens.keys()].some((target) => find(target, base, adapter, tie).key === tie.table)
    if (!shared) {
      const table = weightOf(tie.head, base, tie)
      if (table !== undefined && !made.has(tie.head)) tensors.set(tie.head, files.take(table, base))
      if (config === undefined) {
        throw refused(base, adapter, `it takes ${tie.table} and the head apart, and there is no config.json to say so`)
      }
      config = untied(config)
    }
  }
  const rows = newRows(tensors, base, adapter, tie)
  if (rows !== undefined && !resize) {
    throw refused(
      base,
      adapter,
      `it has ${rows} rows in its tables of tokens; fold it with --resize, and the vocabulary of the model has as many`,
    )
  }
  return {
    ...base,
    name,
    files: files.list,
    tensors,
    ...(config === undefined
      ? {}
      : {
          config:
            rows === undefined ? config : outputConfig(config, { dtype: undefined, layers: [], vocabulary: rows }),
        }),
  }
}

/** Whole tensors have no part, and lengths of DoRA no multiple: only sums can be scaled or taken back. */
function refuseScaled(base: Checkpoint, adapter: Adapter, weight: number): void {
  const whole = [...adapter.replaced.keys(), ...adapter.tokens.keys()][0]
  const long = adapter.matrices.find(({ magnitude }) => magnitude !== undefined)
  if (whole === undefined && long === undefined) return
  throw refused(
    base,
    adapter,
    `its weight is ${weight}, but ` +
      (whole !== undefined
        ? `it replaces ${whole} as a whole`
        : `it is a DoRA adapter, which also scales ${long?.target}`) +
      ', so it can be folded with the weight 1 alone',
    whole ?? long?.target,
  )
}

/** A table with some of its rows replaced. */
function withRows(
  key: string,
  table: Origin,
  { tensor, ids }: { tensor: CheckpointTensor; ids: number[] },
  adapter: Adapter,
): CheckpointTensor {
  const [rows = 0] = table.tensor.shape
  if (tensor.shape[1] !== table.tensor.shape[1]) throw misfit(key, table.tensor, tensor, adapter)
  const beyond = ids.find((id) => id >= rows)
  if (beyond !== undefined) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
      `The adapter ${adapter.checkpoint.path} has a row for token ${beyond}, but ${key} has ${rows} rows.`,
      { tensor: key, file: adapter.checkpoint.path },
    )
  }
  const places = new Map(ids.map((id, row) => [id, row]))
  const wanted = Array.from({ length: rows }, (_, id) => {
    const row = places.get(id)
    return [row === undefined ? { origin: 0, row: id } : { origin: 1, row }]
  })
  const origins = [table, { checkpoint: adapter.checkpoint, tensor }]
  return arrange({ name: key, origins }, 0, wanted, rows).tensor
}

/** Rows of the tables of tokens, where the adapter changes them; all tables have to have as many. */
function newRows(
  tensors: ReadonlyMap<string, CheckpointTensor>,
  base: Checkpoint,
  adapter: Adapter,
  tie: Tie | undefined,
): number | undefined {
  const tables = [...tensors].filter(([key]) => isVocabulary(key))
  const rowsOf = ([, { shape }]: [string, CheckpointTensor]) => shape[0] ?? 0
  const grown = tables.find((table) => rowsOf(table) !== weightOf(table[0], base, tie)?.shape[0])
  const other = grown && tables.find((table) => rowsOf(table) !== rowsOf(grown))
  if (grown !== undefined && other !== undefined) {
    const [[one], [two]] = [grown, other]
    throw refused(
      base,
      adapter,
      `it gives ${one} ${rowsOf(grown)} rows, but ${two} has ${rowsOf(other)}; no file says what the head is to make of the other tokens, so give ` +
        'the base as many rows, or save both tables with the adapter (modules_to_save)',
      two,
    )
  }
  return grown && rowsOf(grown)
}

/** Refuses an adapter that lacks modules which its config names: what was trained is lost. */
function refuseAbsent(base: Checkpoint, adapter: Adapter, tie: Tie | undefined): void {
  const modules = (names: Iterable<string>) => [...names].map((key) => key.replace(/\.[^.]+$/, ''))
  // experts are one parameter in newer transformers, which the name of a linear does not reach
  const linears = [...base.tensors.keys()].filter((key) => !key.includes('.experts.'))
  const there = modules([...linears, ...(tie === undefined ? [] : [tie.head])])
  const held = modules([
    ...[adapter.replaced, adapter.biases, adapter.tokens].flatMap((map) => [...map.keys()]),
    ...adapter.matrices.map(({ target }) => target),
  ])
  const ends = (module: string, name: string) => module === name || module.endsWith(`.${name}`)
  for (const name of adapter.named) {
    if (there.some((module) => ends(module, name)) && !held.some((module) => ends(module, name))) {
      throw refused(base, adapter, `its config names ${name}, but it has no tensor of it`)
    }
  }
}

/** The weight in the base; vision models of older and newer transformers have other names. */
function find(
  target: string,
  base: Checkpoint,
  adapter: Adapter,
  tie: Tie | undefined,
): { key: string; tensor: CheckpointTensor } {
  const found = findWeight(target, base, tie)
  if (found !== undefined) return found
  const { checkpoint } = adapter
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_MISSING_TENSOR',
    `The adapter ${checkpoint.path} changes ${target}, but ${base.name} has no such tensor; put it on the model that it was ` +
      `trained for${target.endsWith('.bias') ? ', whose linears have biases' : ''}.`,
    { tensor: target, file: base.path },
  )
}

/** The tensor of a base that an adapter means by a name, under the name that it has there. */
export function findWeight(
  target: string,
  base: Checkpoint,
  tie: Tie | undefined,
): { key: string; tensor: CheckpointTensor } | undefined {
  const names = [
    target,
    target.replace(/^model\.language_model\./, 'language_model.model.'),
    target.replace(/^language_model\.model\./, 'model.language_model.'),
    // trained on the text model of a larger one, and the reverse
    target.replace(/^model\./, 'model.language_model.'),
    target.replace(/^model\./, 'language_model.model.'),
    target.replace(/^(model\.language_model|language_model\.model)\./, 'model.'),
    `model.${target}`,
    // the router of Mixtral, whose module older transformers and its files call by another name
    target.replace('.mlp.gate.', '.block_sparse_moe.gate.'),
  ]
  for (const key of names) {
    const tensor = weightOf(key, base, tie)
    if (tensor !== undefined) return { key, tensor }
  }
  return undefined
}

/** A weight of the base that a matrix of the adapter changes, or a part of it. */
interface Part {
  key: string
  tensor: CheckpointTensor
  /** Which expert it is, where the base stores each by itself. */
  expert?: number
  /** The rows of B that it takes, from this one on. */
  row: number
}

/** How experts are called by themselves: each part of a stack by the names that Mixtral and others have for it. */
const apart: Readonly<Record<string, [string, string][]>> = {
  gate_up_proj: [
    ['gate_proj', 'up_proj'],
    ['w1', 'w3'],
  ],
  down_proj: [
    ['down_proj', ''],
    ['w2', ''],
  ],
}

/** What a matrix changes: one weight, or one for each expert, where the base stores experts by themselves. */
function partsOf(matrix: LowRank, base: Checkpoint, adapter: Adapter, tie: Tie | undefined): Part[] {
  const { target, experts = 1 } = matrix
  const whole = findWeight(target, base, tie)
  if (whole !== undefined || experts === 1) return [{ ...(whole ?? find(target, base, adapter, tie)), row: 0 }]
  const [, owner = '', parameter = ''] = /^(.+\.experts)\.(\w+)$/.exec(target) ?? []
  for (const [first, second] of apart[parameter] ?? []) {
    for (const path of [owner, owner.replace('.mlp.experts', '.block_sparse_moe.experts')]) {
      const at = (expert: number, name: string) => findWeight(`${path}.${expert}.${name}.weight`, base, tie)
      if (at(0, first) === undefined) continue
      return Array.from({ length: experts }, (_, expert) => expert).flatMap((expert): Part[] =>
        [first, second].flatMap((name, i): Part[] => {
          if (name === '') return []
          const found = find(`${path}.${expert}.${name}.weight`, base, adapter, tie)
          return [{ ...found, expert, row: i * (found.tensor.shape[0] ?? 0) }]
        }),
      )
    }
  }
  return [{ ...find(target, base, adapter, tie), row: 0 }]
}

/** Types of models whose layers store linears as [in, out] (Conv1D of transformers). */
const conv1d: ReadonlySet<unknown> = new Set(['gpt2', 'openai-gpt', 'imagegpt', 'decision_transformer'])

/** Whether a weight is stored as [in, out], so that the transpose of B A is added. */
function isTurned(key: string, base: Checkpoint, adapter: Adapter): boolean {
  if (layerOf(key) === undefined) return false
  const type = base.config?.model_type
  if (adapter.turned && typeof type === 'string' && !conv1d.has(type)) {
    throw refused(base, adapter, `it sets fan_in_fan_out, but models of type ${type} store linears as [out, in]`, key)
  }
  return adapter.turned || conv1d.has(type)
}

async function adapted(
  addon: Starts,
  part: Part,
  base: Checkpoint,
  adapter: Adapter,
  matrix: LowRank,
  weight: number,
): Promise<CheckpointTensor> {
  const { key, tensor } = part
  const { below, magnitude } = matrix
  if (below !== undefined) refuseMisfit(key, tensor, below, adapter)
  const start = below ?? tensor
  const origin = { checkpoint: below === undefined ? base : adapter.checkpoint, tensor: start }
  if (matrix.experts !== undefined) {
    if (matrix.start !== undefined)
      throw refused(base, adapter, `${key} is a stack of experts that began as ${matrix.start}`)
    return changed(key, origin, expertChanges(part, base, adapter, matrix, weight), storedType(tensor))
  }
  const stored = isTurned(key, base, adapter)
  const transposed = matrix.turned !== (!matrix.embedding && stored)
  const { a, b } = matrix
  const [rows = 0, columns = 0] = start.shape
  const product = transposed ? [a.shape[1], b.shape[0]] : [b.shape[0], a.shape[1]]
  if (start.shape.length !== 2 || product[0] !== rows || product[1] !== columns) throw misfit(key, start, b, adapter)
  const pairs = [pairOf(adapter.checkpoint, matrix, weight)]
  if (matrix.start !== undefined) {
    pairs.unshift(startPair(addon, origin, adapter, matrix, { rows, columns, transposed, weight }))
  }
  const sum = changed(key, origin, [{ rows, columns, transposed, pairs }], storedType(tensor))
  if (magnitude === undefined) return sum
  // one an output, and of an embedding of PEFT one a column
  const across = matrix.embedding ? matrix.turned : stored
  const lengths = await readValues(adapter.checkpoint, magnitude)
  if (lengths.length !== (across ? columns : rows)) throw misfit(key, start, magnitude, adapter)
  return lengthened(key, { checkpoint: base, tensor: sum }, [...lengths], across)
}

/** What the base lost when training began: the same factors again, subtracted. They are computed when a run begins. */
function startPair(
  addon: Starts,
  origin: Origin,
  adapter: Adapter,
  { rank, scale, start = 'pissa' }: LowRank,
  { rows, columns, transposed, weight }: Omit<Change, 'pairs'> & { weight: number },
): Pair {
  if (isDerived(origin.tensor)) {
    throw refused(
      origin.checkpoint,
      adapter,
      `it began as ${start} of the model that it was trained on, so it has to be folded before other adapters`,
      origin.tensor.name,
    )
  }
  const [outputs, inputs] = transposed ? [columns, rows] : [rows, columns]
  refuseStart(start, { rows, columns, rank })
  const [a, b] = [new Float32Array(rank * inputs), new Float32Array(outputs * rank)]
  let made: Promise<void> | undefined
  const fill = () => {
    const { dtype, begin, file } = origin.tensor
    const weight = { path: origin.checkpoint.files[file]?.path ?? '', begin, elements: rows * columns, dtype }
    made ??= addon.adapterStart(weight, { rows, columns, transposed, rank, scale, start }).then((first) => {
      a.set(first.a)
      b.set(first.b)
    })
    return made
  }
  const held = (values: Float32Array<ArrayBuffer>, shape: number[], which: string): Origin => ({
    checkpoint: inMemory(`${adapter.checkpoint.path} ${origin.tensor.name} ${which}`, values, fill),
    tensor: { name: which, file: 0, dtype: 'F32', shape, begin: 0, end: values.byteLength },
    whole: values.length,
  })
  return {
    a: held(a, [rank, inputs], 'A'),
    b: held(b, [outputs, rank], 'B'),
    ...{ rank, scale: -scale * weight, step: 1, first: 0 },
  }
}

/** Numbers that no file holds, as a checkpoint. */
function inMemory(name: string, values: Float32Array<ArrayBuffer>, fill: () => Promise<void>): Checkpoint {
  const memory = new Uint8Array(values.buffer)
  const file = { path: name, name, size: memory.length, modified: 0, identity: name, headerHash: '', memory, fill }
  return { name, path: name, files: [file], tensors: new Map(), stacks: new Map() }
}

/** The changes of a stack of experts, or of the one that a part is. */
function expertChanges(part: Part, base: Checkpoint, adapter: Adapter, matrix: LowRank, weight: number): Change[] {
  const { key, tensor, expert, row } = part
  const { a, b, rank, experts = 1, stacked, order } = matrix
  const inputs = a.shape.at(-1) ?? 0
  const outputs = (stacked ? b.shape[1] : b.shape[0]) ?? 0
  if (expert !== undefined) {
    const [rows = 0, columns = 0] = tensor.shape
    if (tensor.shape.length !== 2 || columns !== inputs || row + rows > outputs) throw misfit(key, tensor, b, adapter)
    if (inputs === outputs && order !== 'class') {
      throw refused(
        base,
        adapter,
        `experts of ${matrix.target} are square, and only since PEFT 0.19 A is always of their inputs; its config says ` +
          `${order === undefined ? 'no peft_version' : 'an older peft_version'}`,
        key,
      )
    }
    const pair = expertPair(adapter.checkpoint, matrix, expert, weight)
    // Element (i, k) of B lies at (i r + k) step + first.
    return [{ rows, columns, transposed: false, pairs: [{ ...pair, first: pair.first + row * rank * pair.step }] }]
  }
  const [count = 0, rows = 0, columns = 0] = tensor.shape
  const [plain, transposed] = [rows === outputs && columns === inputs, rows === inputs && columns === outputs]
  if (tensor.shape.length !== 3 || count !== experts || !(plain || transposed)) throw misfit(key, tensor, b, adapter)
  const square = plain && transposed && !stacked
  if (square && order !== 'in-out' && base.config?.model_type !== 'gpt_oss') {
    throw refused(
      base,
      adapter,
      `experts of ${key} are square, and neither its config nor its tensors say whether they are stored as [in, out]`,
      key,
    )
  }
  const turned = stacked ? !plain : transposed
  return Array.from({ length: experts }, (_, i) => ({
    ...{ rows, columns, transposed: turned },
    pairs: [expertPair(adapter.checkpoint, matrix, i, weight)],
  }))
}

/** Tables of tokens may have another number of rows. */
function refuseMisfit(key: string, weight: CheckpointTensor, found: CheckpointTensor, adapter: Adapter): void {
  const sameRest = isVocabulary(key) && sameShape(found.shape.slice(1), weight.shape.slice(1))
  if (!sameShape(found.shape, weight.shape) && !sameRest) throw misfit(key, weight, found, adapter)
}

function misfit(
  key: string,
  weight: CheckpointTensor,
  found: CheckpointTensor,
  { checkpoint }: Adapter,
): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
    `Tensor ${key} has the shape [${weight.shape.join(', ')}], which ${found.name} [${found.shape.join(', ')}] of the ` +
      `adapter ${checkpoint.path} does not fit.`,
    { tensor: key, file: checkpoint.path },
  )
}

function refused(base: Checkpoint, { checkpoint }: Adapter, what: string, tensor?: string): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_FORMAT',
    `The adapter ${checkpoint.path} cannot be merged into ${base.name}: ${what}.`,
    { file: checkpoint.path, tensor },
  )
}
