/**
 * Several checkpoints cut from one, which is read once: every chunk of a tensor goes to all outputs that take something
 * of it, and what several take is cut once. Outputs are written in the order of the source, so that each is hashed as
 * it grows. They are staged, resumed and published as one rewritten checkpoint is.
 */

import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import type { Host } from '../native/host.js'
import { version } from '../native/version.js'
import { parseBytes } from '../util/bytes.js'
import { messageOf, throwIfAborted, WeightsmithError } from '../util/errors.js'
import { chunkBytes, columnCutter, readFully, runsOf, shapeOf } from './cut.js'
import { writerRank } from './dtypes.js'
import {
  type Checkpoint,
  type CheckpointTensor,
  type Content,
  type Cut,
  checkDisk,
  checkOutput,
  inputsOf,
  layOut,
  type Manifest,
  type OutputLayout,
  refuseChanged,
  Sink,
  Stage,
  soundProgress,
} from './index.js'
import { digest } from './resume/index.js'
import { mostly, type RewriteOptions, type Rewritten, writeBeside } from './rewrite.js'

/** A tensor whose rows come in order, some at a time. */
export interface RowSource {
  dtype: string
  shape: readonly number[]
  rowBytes: number
  /** Whole rows; what was given out is not written to again. */
  chunks(): AsyncIterable<Uint8Array>
}

/** A tensor of an output: cut from one of the model, or new. Cuts of one output and the next may be one object. */
export type CutTensor = { from: string; cut: Cut } | Content

export interface CutOutput extends Pick<RewriteOptions, 'out' | 'config' | 'recipe' | 'about' | 'files'> {
  /** By the names of the output. */
  tensors: ReadonlyMap<string, CutTensor>
  /** What the front matter of the card has beside what all cards have. */
  front?: Record<string, unknown>
}

export interface CutsOptions
  extends Pick<
    RewriteOptions,
    'overwrite' | 'sync' | 'resume' | 'journalEvery' | 'shardSize' | 'reads' | 'signal' | 'onProgress'
  > {
  /**
   * Where a tensor comes from that is not the model's own, for an output by its number. Outputs that share a source
   * read it once.
   */
  sourceOf?: ((tensor: CheckpointTensor, output: number) => RowSource | undefined) | undefined
  /** What `sourceOf` reads, the model among it. */
  inputs?: readonly Checkpoint[] | undefined
  /** Bytes of weights that were read. */
  onRead?: ((bytes: number) => void) | undefined
}

/** Bytes that wait to be written, of all outputs. */
const mostWaiting = 96 * 2 ** 20

/** What the outputs will hold, and where. */
export function layOutCuts(
  checkpoint: Checkpoint,
  outputs: readonly CutOutput[],
  { shardSize = 5e9 }: { shardSize?: number | undefined } = {},
): { described: { name: string; dtype: string; shape: number[]; bytes: number }[]; layout: OutputLayout }[] {
  const places = new Map(sourceOrder(checkpoint).map(({ name }, i) => [name, i]))
  return outputs.map(({ tensors }) => {
    const described = [...tensors].map(([name, tensor]) => {
      if (!('from' in tensor))
        return { name, dtype: tensor.dtype, shape: tensor.shape, bytes: tensor.size, place: Infinity }
      const { dtype, shape, begin, end } = sourceNamed(checkpoint, tensor.from)
      const cut = shapeOf(shape, tensor.cut)
      const share = cut.reduce((product, size) => product * size, 1) / Math.max(1, elementsOf(shape))
      const bytes = Math.round((end - begin) * share)
      return { name, dtype, shape: cut, bytes, place: places.get(tensor.from) ?? Infinity }
    })
    described.sort(
      (a, b) =>
        writerRank(b.dtype) - writerRank(a.dtype) ||
        (a.place === b.place ? (a.name < b.name ? -1 : 1) : a.place - b.place),
    )
    const tensorsOf = described.map(({ place: _, ...tensor }) => tensor)
    return { described: tensorsOf, layout: layOut(tensorsOf, shardSize, 'given') }
  })
}

/**
 * Writes the outputs; until all of each is on disk none has its final name. Throws what `rewrite` throws. The report of
 * each has its own bytes.
 */
export async function writeCuts(
  { addon, device }: Pick<Host, 'addon' | 'device'>,
  checkpoint: Checkpoint,
  outputs: readonly CutOutput[],
  options: CutsOptions,
): Promise<Rewritten[]> {
  const { inputs = [checkpoint] } = options
  const { overwrite = false, sync = true, resume = false, journalEvery, signal, shardSize = 5e9 } = options
  const targets: string[] = []
  for (const { out } of outputs) targets.push(await checkOutput(out, [...inputs], { overwrite, resume }))
  const laidOut = layOutCuts(checkpoint, outputs, { shardSize })
  const total = laidOut.reduce((sum, { layout }) => sum + layout.bytes, 0)
  await checkDisk(targets, total)
  const every = journalEvery === undefined ? Infinity : parseBytes(journalEvery, 'bytes between two notes')
  const noted = total > every
  const flow = new Flow()
  const lanes: Lane[] = []
  try {
    for (const [i, output] of outputs.entries()) {
      const { described, layout } = laidOut[i] as (typeof laidOut)[number]
      const { config = checkpoint.config, recipe } = output
      const dtype = mostly(described)
      const run = () => ({
        verb: 'cut',
        facts: { 'version of Weightsmith': version, recipe, type: dtype, 'shard size': shardSize },
        inputs: [...inputsOf(inputs), ...(options.reads ?? [])],
        plan: digest([described, config]),
      })
      const stage = await Stage.create(addon, targets[i] ?? '', { sync, overwrite, resume, noted, run })
      lanes.push(await Lane.create({ output, stage, described, layout, flow, sync, dtype }))
    }
    await flowThrough(checkpoint, lanes, { ...options, every: noted ? every : Infinity, total, flow })
    const written: Rewritten[] = []
    for (const [i, lane] of lanes.entries()) {
      const { output, stage, layout, dtype, files, resumed } = lane
      const { config = checkpoint.config, recipe, about, front = {} } = output
      const target = targets[i] ?? ''
      const beside = { config, recipe, about, target, layout, dtype, files, front, extra: output.files, inputs }
      await writeBeside({ addon, device }, stage, checkpoint, beside)
      written.push({ out: target, files, bytesWritten: layout.bytes, resumed })
    }
    await refuseChanged(inputs)
    throwIfAborted(signal, 'The writing')
    for (const { stage } of lanes) await stage.publish()
    for (const { stage } of lanes) await stage.finish()
    return written
  } catch (error) {
    await Promise.all(lanes.map((lane) => lane.close()))
    const partial: (string | undefined)[] = []
    for (const { stage } of lanes) partial.push(await stage.fail(error))
    const [kept] = partial.filter((folder) => folder !== undefined)
    if (kept !== undefined && error instanceof WeightsmithError) error.partial = kept
    throw error
  }
}

/** Sends the tensors of the checkpoint through the lanes. */
async function flowThrough(
  checkpoint: Checkpoint,
  lanes: readonly Lane[],
  {
    sourceOf,
    signal,
    onRead,
    onProgress,
    every,
    total,
    flow,
  }: CutsOptions & { every: number; total: number; flow: Flow },
): Promise<void> {
  const files = new SourceFiles(checkpoint, onRead)
  const passed = () => lanes.reduce((sum, lane) => sum + lane.passed, 0)
  let noted = passed()
  const step = async (item: string) => {
    throwIfAborted(signal, 'The writing')
    await flow.room(mostWaiting)
    onProgress?.({ phase: 'write', done: passed(), total, unit: 'bytes', item })
  }
  const ranks = new Set(lanes.flatMap((lane) => lane.tensors.map(({ dtype }) => writerRank(dtype))))
  const sources = sourceOrder(checkpoint)
  try {
    for (const rank of [...ranks].sort((a, b) => b - a)) {
      for (const tensor of sources.filter(({ dtype }) => writerRank(dtype) === rank)) {
        const takers = new Map<RowSource, Map<Cut, Lane[]>>()
        const own = files.source(tensor)
        for (const [i, lane] of lanes.entries()) {
          const cut = lane.takes(tensor.name)
          if (cut === undefined) continue
          const source = sourceOf?.(tensor, i) ?? own
          const cuts = takers.get(source) ?? new Map<Cut, Lane[]>()
          takers.set(source, cuts.set(cut, [...(cuts.get(cut) ?? []), lane]))
        }
        for (const [source, cuts] of takers) {
          const cutters = [...cuts].map(([cut, those]) => ({ cut: rowCutter(source, cut), those }))
          for (const { those } of cutters) for (const lane of those) lane.begin()
          let row = 0
          for await (const chunk of source.chunks()) {
            for (const { cut, those } of cutters) {
              const bytes = cut(chunk, row)
              if (bytes.length > 0) for (const lane of those) lane.put(bytes)
            }
            row += chunk.length / source.rowBytes
            await step(tensor.name)
          }
          for (const { those } of cutters) for (const lane of those) lane.done()
        }
        if (passed() - noted < every) continue
        noted = passed()
        for (const lane of lanes) lane.note()
      }
      for (const lane of lanes) {
        for (const [name, content] of lane.contents(rank)) {
          lane.begin()
          for await (const bytes of content.bytes()) lane.put(bytes)
          lane.done()
          await step(name)
        }
      }
    }
    for (const lane of lanes) lane.finish()
    await flow.empty()
  } finally {
    await files.close()
  }
}

/** Work that lanes have queued, of all of them: how many bytes wait, and what went wrong first. */
class Flow {
  private waiting = 0
  private readonly pending = new Set<Promise<void>>()
  private failure: { error: unknown } | undefined

  add(work: Promise<void>, bytes: number): void {
    this.waiting += bytes
    const done = work
      .catch((error: unknown) => {
        this.failure ??= { error }
      })
      .finally(() => {
        this.waiting -= bytes
        this.pending.delete(done)
      })
    this.pending.add(done)
  }

  /** Waits until no more than so many bytes wait. */
  async room(bytes: number): Promise<void> {
    while (this.waiting > bytes && this.failure === undefined) await Promise.race(this.pending)
    this.throwFailure()
  }

  async empty(): Promise<void> {
    await Promise.all(this.pending)
    this.throwFailure()
  }

  private throwFailure(): void {
    if (this.failure !== undefined) throw this.failure.error
  }
}

interface LaneOptions {
  output: CutOutput
  stage: Stage
  described: readonly { name: string; dtype: string; shape: number[]; bytes: number }[]
  layout: OutputLayout
  flow: Flow
  sync: boolean
  dtype: string
}

/** One output as it is written: its tensors one after another, each behind what is queued before it. */
class Lane {
  readonly output: CutOutput
  readonly stage: Stage
  readonly layout: OutputLayout
  readonly dtype: string
  readonly tensors: LaneOptions['described']
  readonly files: Manifest['outputs']
  /** Tensors that an earlier run had finished. */
  readonly resumed: number
  /** Bytes of tensors that are queued or done. */
  passed: number
  private readonly cuts = new Map<string, { cut: Cut; place: number }>()
  /** What is queued: the tensor that comes next, the file, and whether its opening is queued. */
  private next: number
  private file: number
  private opens = false
  private queue: Promise<void> = Promise.resolve()
  /** What is on its way to the disk: the file, how far it is, and the tensors in it. */
  private sink: Sink | undefined
  private end: number
  private finished: number

  private constructor(
    private readonly options: LaneOptions,
    before: { files: Manifest['outputs']; tensors: number; bytes: number },
  ) {
    const { output, stage, layout, described, dtype } = options
    this.output = output
    this.stage = stage
    this.layout = layout
    this.dtype = dtype
    this.tensors = described
    this.files = before.files
    this.file = before.files.length
    this.end = before.bytes
    this.finished = before.tensors
    const first = described.findIndex(({ name }) => this.fileOf(name) >= this.file)
    this.next = (first < 0 ? described.length : first) + before.tensors
    this.resumed = this.next
    this.passed = described.slice(0, this.next).reduce((sum, { bytes }) => sum + bytes, 0)
    for (const [place, { name }] of described.entries()) {
      const tensor = output.tensors.get(name)
      if (tensor !== undefined && 'from' in tensor) this.cuts.set(tensor.from, { cut: tensor.cut, place })
    }
  }

  static async create(options: LaneOptions): Promise<Lane> {
    const { stage, layout } = options
    const names = layout.files.map(({ name }) => name)
    const before = stage.resumed ? await soundProgress(stage.point?.done, stage.folder, names) : undefined
    return new Lane(options, before ?? { files: [], tensors: 0, bytes: 0 })
  }

  /** How a tensor of the model is cut, where it is still to come. */
  takes(name: string): Cut | undefined {
    const found = this.cuts.get(name)
    return found !== undefined && found.place >= this.next ? found.cut : undefined
  }

  /** New tensors of a type that are still to come. */
  contents(rank: number): [string, Content][] {
    return this.tensors.slice(this.next).flatMap(({ name, dtype }): [string, Content][] => {
      const tensor = this.output.tensors.get(name)
      return tensor !== undefined && !('from' in tensor) && writerRank(dtype) === rank ? [[name, tensor]] : []
    })
  }

  /** Begins the next tensor. */
  begin(): void {
    this.reach(this.fileOf(this.tensors[this.next]?.name ?? ''))
  }

  put(bytes: Uint8Array): void {
    this.passed += bytes.length
    this.after(async () => {
      await this.sink?.write(bytes)
      this.end += bytes.length
    }, bytes.length)
  }

  /** Ends the tensor that was begun. */
  done(): void {
    this.next++
    this.after(async () => void this.finished++)
  }

  /** Notes what is on disk, for a run that goes on from there. */
  note(): void {
    this.after(async () => {
      await this.sink?.sync()
      await this.stage.point?.save({ files: this.files, tensors: this.finished, bytes: this.end })
    })
  }

  /** Ends the last file. */
  finish(): void {
    this.reach(this.layout.files.length)
  }

  /** After a failure: waits for what is under way, and closes the file. */
  async close(): Promise<void> {
    await this.queue.catch(() => undefined)
    await this.sink?.close()
  }

  private fileOf(name: string): number {
    return this.layout.places.get(name)?.file ?? 0
  }

  /** Ends the files before this one, and opens it where there is one. */
  private reach(file: number): void {
    for (; this.file < file; this.file++, this.opens = false) {
      this.open()
      this.after(() => this.finishFile())
    }
    if (file < this.layout.files.length) this.open()
  }

  private open(): void {
    if (this.opens) return
    this.opens = true
    const { name = '', header = new Uint8Array() } = this.layout.files[this.file] ?? {}
    this.after(async () => {
      this.sink = await Sink.open(join(this.stage.folder, name), this.end)
      if (this.end > 0) return
      await this.sink.write(header)
      this.end = header.length
    })
  }

  private async finishFile(): Promise<void> {
    const { name = '', size = 0 } = this.layout.files[this.files.length] ?? {}
    const sha256 = await this.sink?.finish(size, this.options.sync)
    this.files.push({ name, size, ...(sha256 !== undefined && { sha256 }) })
    this.sink = undefined
    this.end = 0
    this.finished = 0
  }

  private after(work: () => Promise<void>, bytes = 0): void {
    this.queue = this.queue.then(work)
    this.options.flow.add(this.queue, bytes)
  }
}

/** The tensors of a checkpoint in the order in which outputs have them: by type, then as its files do. */
function sourceOrder({ tensors }: Checkpoint): CheckpointTensor[] {
  return [...tensors.values()].sort(
    (a, b) => writerRank(b.dtype) - writerRank(a.dtype) || a.file - b.file || a.begin - b.begin,
  )
}

function sourceNamed({ name, tensors }: Checkpoint, tensor: string): CheckpointTensor {
  const found = tensors.get(tensor)
  if (found !== undefined) return found
  throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${name} has no ${tensor} to be cut.`)
}

const elementsOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)

/** The files of a checkpoint, open as long as tensors are read from them. */
class SourceFiles {
  private readonly handles = new Map<number, Promise<FileHandle>>()

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly onRead: ((bytes: number) => void) | undefined,
  ) {}

  source({ dtype, shape, file, begin, end }: CheckpointTensor): RowSource {
    const [height = 1] = shape
    const rowBytes = height === 0 ? 0 : (end - begin) / height
    const step = rowBytes * Math.max(1, Math.floor(chunkBytes / Math.max(1, rowBytes)))
    const read = async (from: number) => {
      const bytes = new Uint8Array(Math.min(step, end - from))
      await readFully(await this.handle(file), this.checkpoint.files[file]?.path ?? '', bytes, from)
      this.onRead?.(bytes.length)
      return bytes
    }
    return {
      ...{ dtype, shape, rowBytes },
      async *chunks() {
        // While a chunk is cut, the next one is read.
        let ahead = begin < end ? read(begin) : undefined
        for (let from = begin; ahead !== undefined; from += step) {
          const chunk = await ahead
          ahead = from + step < end ? read(from + step) : undefined
          ahead?.catch(() => undefined)
          yield chunk
        }
      },
    }
  }

  async close(): Promise<void> {
    for (const handle of this.handles.values()) await handle.then((file) => file.close()).catch(() => undefined)
  }

  private handle(file: number): Promise<FileHandle> {
    const path = this.checkpoint.files[file]?.path ?? ''
    const handle = this.handles.get(file) ?? open(path, 'r')
    this.handles.set(file, handle)
    return handle.catch((cause: unknown) => {
      const message = `${path} cannot be read: ${messageOf(cause)}.`
      throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', message, { cause, file: path })
    })
  }
}

/** What makes of whole rows, which come in order, those of a cut. */
function rowCutter({ shape, rowBytes }: RowSource, cut: Cut): (chunk: Uint8Array, first: number) => Uint8Array {
  const width = elementsOf(shape.slice(1))
  const columns = columnCutter(cut, width, rowBytes / width)
  const kept = cut.rows && runsOf(cut.rows)
  const zeroed = cut.zeroRows?.length ? runsOf(cut.zeroRows) : []
  return (chunk, first) => {
    const rows = chunk.length / rowBytes
    /** Of runs what lies in the chunk, from its beginning on. */
    const inside = (runs: readonly { first: number; length: number }[]) =>
      runs.flatMap((run) => {
        const [begin, end] = [Math.max(run.first, first), Math.min(run.first + run.length, first + rows)]
        return begin < end ? [{ begin: (begin - first) * rowBytes, end: (end - first) * rowBytes }] : []
      })
    let bytes = chunk
    const zeros = inside(zeroed)
    if (zeros.length > 0) {
      bytes = bytes.slice()
      for (const { begin, end } of zeros) bytes.fill(0, begin, end)
    }
    if (kept !== undefined) {
      const parts = inside(kept)
      const size = parts.reduce((sum, { begin, end }) => sum + end - begin, 0)
      if (size < bytes.length) {
        const whole = bytes
        bytes = new Uint8Array(size)
        let to = 0
        for (const { begin, end } of parts) {
          bytes.set(whole.subarray(begin, end), to)
          to += end - begin
        }
      }
    }
    return columns === undefined || bytes.length === 0 ? bytes : columns(bytes)
  }
}
