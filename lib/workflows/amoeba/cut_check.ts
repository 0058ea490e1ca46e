/**
 * What was cut, looked at again: blocks, units and some of their bytes are those of the strategy, and the model says
 * what the whole model says under masks.
 */

import { type FileHandle, open } from 'node:fs/promises'
import { nameOf, openWithAdapters } from '../../adapters/adapted_model.js'
import { type ModelSpec, modelSpec } from '../../architectures/index.js'
import { readFully } from '../../checkpoint/cut.js'
import { type Checkpoint, type CheckpointTensor, openCheckpoint } from '../../checkpoint/index.js'
import { ImageLoader, openTokenizer, type Tokenizer } from '../../data/index.js'
import type { Engine } from '../../engine/engine.js'
import { type DataSet, measure, readSet } from '../../eval/index.js'
import type { Host } from '../../native/host.js'
import type { Model, Zeros } from '../../runtime/index.js'
import { modelOf } from '../../runtime/open_model.js'
import { throwIfAborted, WeightsmithError } from '../../util/errors.js'
import type { ShapeAdapter } from './shape_adapters.js'
import { type CutLayout, cutsOf, SharedCuts } from './shape_cuts.js'
import type { Shape } from './strategy.js'

/** Losses are in nats a token: of answers where lines have them. */
export interface ShapeCheck {
  /** Of what was written. */
  loss?: number
  /** Of the model under masks, with what compensates for them. */
  maskedLoss?: number
  /** Of the model under masks alone; where something compensates. */
  uncompensatedLoss?: number
  /** Largest difference of the first lines' logits between what was written and masks, over the largest logit. */
  logitsDifference?: number
}

export interface CheckData {
  tokenizer: Tokenizer
  set: DataSet
}

/** Lines for losses, read and checked. */
export async function checkTables(data: string, checkpoint: Checkpoint, spec: ModelSpec): Promise<CheckData> {
  const tokenizer = await openTokenizer(checkpoint)
  return { tokenizer, set: await readSet(data, { tokenizer, spec, checkpoint }, { metric: 'nll' }) }
}

interface Subject {
  engine: Engine
  host: Host
  checkpoint: Checkpoint
  spec: ModelSpec
  model: string
  shape: Shape
  layout: CutLayout
  /** That stay. */
  blocks: readonly number[]
  out: string
  adapters: readonly ShapeAdapter[]
  tables: CheckData | undefined
  signal: AbortSignal | undefined
}

/** Sequences whose logits are compared. */
const compared = 4

/** Throws ERR_WEIGHTSMITH_VERIFY where the folder is not the shape; measures losses where there is data. */
export async function checkCut(subject: Subject): Promise<ShapeCheck> {
  const { engine, host, out, tables, shape } = subject
  const written = await openCheckpoint(host.addon, out, out)
  await checkStructure(subject, written)
  if (tables === undefined) return {}
  const masked = await maskedModel(subject, shape)
  const small = modelOf(engine, written, { batchTokens: masked.batchTokens })
  try {
    const [found, wanted] = [await logitsOf(subject, small, tables), await logitsOf(subject, masked, tables)]
    const largest = (values: Float32Array) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    const logitsDifference = largest(found.map((value, i) => value - (wanted[i] ?? 0))) / largest(wanted)
    const losses = {
      loss: await lossOf(subject, small, tables),
      maskedLoss: await lossOf(subject, masked, tables),
    }
    if (shape.biases.size === 0) return { ...losses, logitsDifference }
    const plain = await maskedModel(subject, { ...shape, biases: new Map() })
    try {
      return { ...losses, uncompensatedLoss: await lossOf(subject, plain, tables), logitsDifference }
    } finally {
      await plain.close()
    }
  } finally {
    await small.close()
    await masked.close()
  }
}

async function checkStructure(subject: Subject, written: Checkpoint): Promise<void> {
  const { checkpoint, spec, shape, layout, blocks, out, adapters } = subject
  const refuse = (problem: string): never => {
    throw new WeightsmithError('ERR_WEIGHTSMITH_VERIFY', `${out} is not the shape that was cut: ${problem}.`, {
      file: out,
      problems: [problem],
    })
  }
  const found = modelSpec(written.config, written.tensors, written.name).language.layers
  const places = layout === 'compact' ? blocks : shape.blocks.map((_, block) => block)
  if (found.length !== places.length) refuse(`it has ${found.length} blocks instead of ${places.length}`)
  const [before, after] = [new RowReader(checkpoint), new RowReader(written)]
  try {
    for (const { layer, kind, kept } of shape.units) {
      const place = places.indexOf(layer)
      if (place < 0 || shape.blocks[layer] !== true) continue
      const own = spec.language.layers[layer]?.units.find((unit) => unit.kind === kind)
      const units = found[place]?.units.find((unit) => unit.kind === kind)
      const stay = kept.filter((stays) => stays).length
      const count = layout === 'compact' ? stay : kept.length
      if (units?.count !== count) refuse(`block ${place} has ${units?.count} units (${kind}) instead of ${count}`)
      // Rows of the last unit that stays and of the first that goes, in the first matrix that they are of.
      if (adapters.length > 0) continue
      const rows = own?.rows.find(({ tensor }) => spec.tensors.get(tensor)?.length === 2)
      const target = units?.rows.find(({ tensor }) => written.tensors.get(tensor)?.shape.length === 2)
      const [from, to] = [checkpoint.tensors.get(rows?.tensor ?? ''), written.tensors.get(target?.tensor ?? '')]
      if (rows === undefined || from === undefined || to === undefined) continue
      const last = kept.lastIndexOf(true)
      const moved = layout === 'compact' ? stay - 1 : last
      const want = await before.read(from, last * rows.size, rows.size)
      const have = await after.read(to, moved * rows.size, rows.size)
      if (!want.equals(have)) refuse(`unit ${moved} (${kind}) of block ${place} is not unit ${last} of block ${layer}`)
      const gone = kept.indexOf(false)
      if (layout === 'compact' || gone < 0) continue
      const cleared = await after.read(to, gone * rows.size, rows.size)
      if (cleared.some((byte) => byte !== 0)) refuse(`unit ${gone} (${kind}) of block ${place} is not zeros`)
    }
  } finally {
    await before.close()
    await after.close()
  }
}

/** Rows of tensors; files stay open from one to the next. */
class RowReader {
  private readonly handles = new Map<string, FileHandle>()

  constructor(private readonly checkpoint: Checkpoint) {}

  async read({ file, begin, end, shape }: CheckpointTensor, first: number, count: number): Promise<Buffer> {
    const rowBytes = (end - begin) / (shape[0] ?? 1)
    const bytes = Buffer.alloc(count * rowBytes)
    const path = this.checkpoint.files[file]?.path ?? ''
    const handle = this.handles.get(path) ?? (await open(path, 'r'))
    this.handles.set(path, handle)
    await readFully(handle, path, bytes, begin + first * rowBytes)
    return bytes
  }

  async close(): Promise<void> {
    for (const handle of this.handles.values()) await handle.close()
  }
}

/** The whole model with zeros in the places of what goes, and biases in memory that compensate for it. */
async function maskedModel(subject: Subject, shape: Shape): Promise<Model> {
  const { engine, host, checkpoint, model, adapters, tables, signal } = subject
  const adapted = { model, adapters: [...adapters] }
  const base = adapters.length === 0 ? checkpoint : await openWithAdapters(host, nameOf(adapted), { adapted, signal })
  const cuts = await cutsOf(subject, shape, { layout: 'masked', shared: new SharedCuts(), key: '' })
  const zeros = new Map<string, Zeros>()
  const tensors = new Map<string, CheckpointTensor>(base.tensors)
  const chunks: Uint8Array[] = []
  let size = 0
  for (const [name, tensor] of cuts.tensors) {
    if ('from' in tensor) {
      const { zeroRows, zeroColumns } = tensor.cut
      if (zeroRows) zeros.set(name, { rows: zeroRows })
      if (zeroColumns) zeros.set(name, { columns: zeroColumns })
      continue
    }
    const [begin, { dtype }] = [size, tensor]
    for await (const chunk of tensor.bytes()) {
      chunks.push(chunk)
      size += chunk.length
    }
    // Tensors begin at whole words.
    const padding = (4 - (size % 4)) % 4
    tensors.set(name, { name, dtype, shape: tensor.shape, file: base.files.length, begin, end: size })
    chunks.push(new Uint8Array(padding))
    size += padding
  }
  const path = `${base.name}: biases in memory`
  const memory = new Uint8Array(Buffer.concat(chunks))
  const file = { path, name: path, size, modified: 0, identity: path, headerHash: '', memory }
  const files = size === 0 ? base.files : [...base.files, file]
  const longest = tables?.set.longest ?? 0
  const batchTokens = Math.max(longest, Math.min(subject.spec.context, mostTokens))
  return modelOf(engine, { ...base, files, tensors, config: cuts.config }, { zeros, batchTokens })
}

/** Tokens of a pass, where the longest line has no more. */
const mostTokens = 1024

async function logitsOf(subject: Subject, model: Model, { set }: CheckData): Promise<Float32Array> {
  const { lines, pieces } = set.kind === 'losses' ? set : { lines: [], pieces: [] }
  const loader = await loaderOf(subject, model, set)
  const rows: Float32Array[] = []
  for (const { ids, line } of pieces.slice(0, compared)) {
    const sequence = await loader.sequence(ids, lines[line] ?? { where: '' })
    const { logits = new Float32Array() } = await model.run(model.pack([sequence]), { logits: true })
    rows.push(logits)
  }
  const all = new Float32Array(rows.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const row of rows) {
    all.set(row, at)
    at += row.length
  }
  return all
}

async function lossOf(subject: Subject, model: Model, { tokenizer, set }: CheckData): Promise<number> {
  const loader = await loaderOf(subject, model, set)
  const check = () => throwIfAborted(subject.signal, 'The evaluation')
  const { value, answers } = await measure({ model, tokenizer, loader, check, step: () => undefined }, set)
  return answers ?? value
}

function loaderOf({ engine }: Subject, model: Model, set: DataSet): Promise<ImageLoader> {
  const lines = set.kind === 'losses' ? set.lines : []
  return ImageLoader.open(engine, { model, checkpoint: model.checkpoint }, { file: set.file, lines })
}
