/**
 * A model that is trained: its weights on the device beside what is trained of it. Gradients of micro-batches are added
 * up; a step of the optimizer takes them and begins anew.
 */

import { type ModelSpec, modelSpec } from '../../architectures/index.js'
import type { Checkpoint, CheckpointTensor } from '../../checkpoint/index.js'
import { refuseQuantised } from '../../checkpoint/index.js'
import type { NativeDevice, NativeWork } from '../../native/border.js'
import type { Host } from '../../native/host.js'
import { layout as wgsl } from '../../native/layouts.js'
import { misuse, WeightsmithError } from '../../util/errors.js'
import { type AdapterSpec, gatesOf } from '../adapters.js'
import { transposed } from '../blocks.js'
import {
  modelKernels as kernels,
  lossesOf,
  lossWords,
  packTokens,
  taughtLossesOf,
  taughtLossWords,
} from '../kernels.js'
import { dtypeOf, storedBlock } from '../model.js'
import { adaptedNorms, type Block, formsOf, packedBytes, type Rotary, tensorsOfOp } from '../ops/index.js'
import { angleTable } from '../program.js'
import type { RouterSpec } from '../router.js'
import { type Subnet, withSubnets } from '../subnet.js'
import { GradientBuffers, type Learned } from './buffers.js'
import { type BatchShape, GradientPass, type Stage } from './pass.js'
import {
  type KnownLogits,
  lossRowsOf,
  sharesOf,
  type Taught,
  type TeacherMask,
  type TrainingSequence,
} from './teaching.js'

type Use = <T>(work: (host: Host) => Promise<T>) => Promise<T>

export interface TrainableOptions {
  /** Tokens a micro-batch. */
  tokens: number
  /** Tensors that are trained whole; none by default. */
  tensors?: readonly string[]
  adapters?: readonly AdapterSpec[]
  /** Share of the elements of what adapters read that is lost in training. Defaults to none. */
  dropout?: { share: number; seed: number } | undefined
  /**
   * Layers whose values stay from the forward pass to the backward pass, while others are computed again, which changes
   * no number. As many as there is memory for by default.
   */
  tapes?: number
  /**
   * What is learned beside targets (see `run`): the predictions of a model with the same vocabulary, whose head is on
   * the device too, or logits that are known. `self`: what a pass of `forward` has kept of the model itself.
   */
  teacher?: Checkpoint | KnownLogits | 'self'
  /** Another model on the same device, for messages about memory: its name, and bytes that are not to be had. */
  beside?: { name: string; bytes: number } | undefined
  /** Whether passes go through parts of the model (see `forward`). */
  subnets?: boolean
  /** Of adapters with experts. */
  router?: RouterSpec | undefined
  /** How experts are mixed: their factors (default), or their outputs. */
  mix?: 'factor' | 'output' | undefined
  /** Called between parts of a pass; what it throws ends the pass. */
  check?: (() => void) | undefined
}

/** What a pass of `forward` goes through, and what it is for. */
export interface SubnetOptions {
  subnet?: Subnet | undefined
  /** Noise for the choice of its experts. Defaults to none. */
  noise?: Float32Array<ArrayBuffer> | undefined
  /** Whether gradients are to be taken of it. */
  learns?: boolean | undefined
  /** Tokens at which what it says is kept, or what was kept is learned (see `TeacherMask`). */
  mask?: TeacherMask | undefined
  /** Keeps what it says there, for those that learn from it. */
  teaches?: boolean | undefined
  /** How much of the loss is of what was kept, up to 1; targets count for the rest. Defaults to 0. */
  share?: number | undefined
}

/** A pass through a subnet. */
export interface SubnetPass {
  /** Of loss rows (see `lossRowsOf`) in their order, in nats; 0 where there is no target, and nothing is learned. */
  losses: Float32Array
  /** Of all experts; 0 for those that do not count. */
  gates?: Float32Array<ArrayBuffer>
  /** Adds the gradient of scale * the sum of losses to what is there; before any other pass. */
  backward(scale: number): Promise<void>
}

/** A step of AdamW, as torch.optim.AdamW takes it. */
export interface AdamwStep {
  rate: number
  beta1: number
  beta2: number
  eps: number
  /** Decoupled weight decay of a tensor. */
  decay: (tensor: string) => number
  /** What gradients are multiplied by first. */
  clip: number
  /** Whether what has no gradient is moved by its moments, as if that were 0. Defaults to false: it is left alone. */
  dense?: boolean | undefined
}

const noShape: BatchShape = { tokens: 0, losses: 0, buckets: { id: 0, position: 0 } }

/** So many dispatches go to the device at a time: few enough to hear of an abort, and for the watchdog of a GPU. */
const dispatchesTogether = 200

/** What is kept of a tensor that is trained. */
export type Part = 'master' | 'gradient' | 'm' | 'v'

export class TrainableModel {
  readonly spec: ModelSpec
  private rotary: Rotary | undefined
  /** How often each tensor was moved, which corrects its moments. */
  readonly updates = new Map<string, number>()
  private readonly touched = new Set<string>()
  /** Of the layers whose weights take turns, the one whose turn it is. */
  private loadedLayer: number | undefined

  private constructor(
    private readonly use: Use,
    readonly checkpoint: Checkpoint,
    private readonly device: NativeDevice,
    private readonly resident: number,
    private readonly buffers: GradientBuffers,
    private readonly check: (() => void) | undefined,
  ) {
    this.spec = buffers.spec
  }

  /**
   * Loads a checkpoint. What is trained begins as it is stored, factors of adapters as zeros, and magnitudes as the
   * lengths of rows that are stored.
   */
  static open(use: Use, checkpoint: Checkpoint, options: TrainableOptions): Promise<TrainableModel> {
    refuseQuantised(checkpoint, 'convert it to float16 or bfloat16 before it is trained')
    const spec = specOf(checkpoint, options)
    return use(async (host) => {
      const buffers = buffersFor(host, spec, checkpoint, options)
      const resident = await host.device.allocate(buffers.sizes)
      const model = new TrainableModel(use, checkpoint, host.device, resident, buffers, options.check)
      const passing = new Set([...buffers.passing.values()].flat())
      try {
        await model.load([...buffers.tensors.keys()].filter((name) => !passing.has(name)))
        await model.beginMagnitudes()
        const source = buffers.teacher?.source
        if (
          typeof options.teacher === 'object' &&
          'tensors' in options.teacher &&
          source !== undefined &&
          'head' in source
        ) {
          const head = headOf(options.teacher, spec, checkpoint.name)
          await model.loadBlocks(options.teacher, head, source.head, [])
        }
      } catch (error) {
        await model.close()
        throw error
      }
      return model
    })
  }

  /**
   * Bytes that training takes on the device; the layers whose values stay from the forward to the backward pass; and
   * the bytes of weights that are read for every micro-batch, because they do not stay. Throws
   * ERR_WEIGHTSMITH_OUT_OF_MEMORY where not even one layer fits.
   */
  static forecast(
    use: Use,
    checkpoint: Checkpoint,
    options: TrainableOptions,
  ): Promise<{ bytes: number; tapes: number; bytesReadPerPass: number }> {
    const spec = specOf(checkpoint, options)
    return use(async (host) => {
      const { bytes, layerValues, passing, lowest } = buffersFor(host, spec, checkpoint, options)
      const bytesOf = (names: readonly string[]) =>
        names.reduce((sum, name) => {
          const { begin = 0, end = 0 } = checkpoint.tensors.get(name) ?? {}
          return sum + end - begin
        }, 0)
      // Forward, and back again but for the last layer, which is still there.
      const last = spec.language.layers.length - 1
      const reads = [...passing].map(([layer, names]) => bytesOf(names) * (layer >= lowest && layer < last ? 2 : 1))
      return { bytes, tapes: layerValues.length, bytesReadPerPass: reads.reduce((a, b) => a + b, 0) }
    })
  }

  /**
   * A model, or some of its layers (`spec`), of which no weight is read: all are zeros. To take times of, which do not
   * depend on values.
   */
  static unloaded(
    use: Use,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    options: TrainableOptions,
  ): Promise<TrainableModel> {
    return use(async (host) => {
      const buffers = buffersFor(host, spec, checkpoint, options)
      const resident = await host.device.allocate(buffers.sizes)
      return new TrainableModel(use, checkpoint, host.device, resident, buffers, options.check)
    })
  }

  /** Bytes on the device. */
  get bytes(): number {
    return this.buffers.bytes
  }

  /** Names of what is trained. */
  get learned(): string[] {
    return [...this.buffers.learned.keys()]
  }

  /** Rows and columns of a tensor that is trained. */
  shapeOf(name: string): [rows: number, columns: number] {
    const { master } = this.learnedOf(name)
    const [rows, columns] = [master.reduce((sum, block) => sum + block.rows, 0), master[0]?.columns ?? 1]
    return this.buffers.turned.has(name) ? [columns, rows] : [rows, columns]
  }

  /**
   * Losses of the targets of sequences, in their order, in nats; with a `scale`, the gradient of scale * their sum is
   * added to what is there. `draw`: which draw of dropout it is; without it nothing is lost. `taught`: of a model that
   * has a teacher. The loss of a row (see `lossRowsOf`) is -sum p log q then, with p = (1 - share) the target + share
   * softmax(the teacher's logits), each where it has one; less share times the entropy of the teacher where its
   * divergence is asked for.
   */
  run(
    sequences: readonly TrainingSequence[],
    scale?: number,
    draw?: { step: number; microBatch: number },
    taught?: Taught,
  ): Promise<Float32Array> {
    return this.lend(async () => {
      const { writes, shape } = this.batchOf(sequences, taught?.mask)
      if (shape.losses === 0) return new Float32Array()
      const { teacher, losses } = this.buffers
      const stages = new GradientPass(this.buffers, { ...shape, draw }, this.touched, taught).stages(scale)
      const words = taught === undefined ? lossWords : taughtLossWords
      const read = { buffer: losses, bytes: 4 * words * shape.losses }
      if (taught === undefined) return lossesOf(await this.inStages(writes, stages, read))
      if (teacher === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'The model has no teacher.')
      const rows = sequences.flatMap((sequence) => lossRowsOf(sequence, taught.mask))
      const shares = sharesOf(rows, taught.share)
      writes.push({ buffer: teacher.shares, offset: 0, memory: bytesOf(shares) })
      if ('normed' in taught && 'normed' in teacher.source) {
        writes.push({ buffer: teacher.source.normed, offset: 0, memory: bytesOf(taught.normed) })
      }
      return taughtLossesOf(await this.inStages(writes, stages, read), shares, taught.divergence)
    })
  }

  /**
   * Losses as a subnet predicts them. Which part of the model it is, its experts and their gates belong to the pass, so
   * that nothing else is asked for where values are computed again.
   */
  forward(
    sequences: readonly TrainingSequence[],
    { subnet, noise, learns = false, mask, teaches = false, share = 0 }: SubnetOptions = {},
  ): Promise<SubnetPass> {
    return this.lend(async () => {
      const { writes, shape } = this.batchOf(sequences, mask)
      const { buffers } = this
      for (const { buffer, values } of buffers.subnet.writesFor(subnet)) {
        writes.push({ buffer, offset: 0, memory: bytesOf(values) })
      }
      const taught =
        share > 0 && mask !== undefined ? { share, mask, divergence: false, kept: true as const } : undefined
      const shares =
        taught &&
        sharesOf(
          sequences.flatMap((sequence) => lossRowsOf(sequence, mask)),
          share,
        )
      if (shares !== undefined && buffers.teacher !== undefined) {
        writes.push({ buffer: buffers.teacher.shares, offset: 0, memory: bytesOf(shares) })
      }
      const gates = await this.gatesFor(subnet, noise)
      const experts = gatesOf(gates ?? [])
      const noisy = noise !== undefined
      const pass = new GradientPass(buffers, { ...shape, subnet, experts, noisy }, this.touched, taught)
      const stages = [...pass.toLosses(learns ? 1 : undefined), ...(teaches ? [{ dispatches: pass.remember() }] : [])]
      const words = await this.inStages(writes, stages, {
        buffer: buffers.losses,
        bytes: 4 * (taught === undefined ? lossWords : taughtLossWords) * shape.losses,
      })
      const nothing = { buffer: buffers.losses, bytes: 0 }
      return {
        losses: shares === undefined ? lossesOf(words) : taughtLossesOf(words, shares, false),
        ...(gates && { gates }),
        backward: (scale) =>
          this.lend(async () => {
            await this.inStages([], pass.backwardFrom(scale), nothing)
          }),
      }
    })
  }

  /** The gates of experts for a subnet; nothing where there is no mixture. */
  private async gatesFor(
    subnet: Subnet | undefined,
    noise: Float32Array<ArrayBuffer> | undefined,
  ): Promise<Float32Array<ArrayBuffer> | undefined> {
    const { router } = this.buffers
    if (router === undefined) return undefined
    const { description } = subnet ?? {}
    if (description !== undefined) return router.ask(this.device, this.resident, description, noise)
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'The router is told nothing of a subnet.')
  }

  /** What the head is applied to, [loss rows of sequences, width]; see `lossRowsOf`. */
  normed(sequences: readonly TrainingSequence[], mask?: TeacherMask): Promise<Float32Array<ArrayBuffer>> {
    return this.lend(async () => {
      const { writes, shape } = this.batchOf(sequences, mask)
      if (shape.losses === 0) return new Float32Array()
      const { stages, buffer } = new GradientPass(this.buffers, shape, this.touched).normed()
      const width = this.spec.tensors.get(this.spec.head.weight)?.[1] ?? 0
      return this.inStages(writes, stages, { buffer, bytes: 4 * width * shape.losses })
    })
  }

  /** Logits of the loss rows of sequences (see `lossRowsOf`), [some rows, vocabulary] at a time. */
  async *logits(sequences: readonly TrainingSequence[], mask?: TeacherMask): AsyncGenerator<Float32Array<ArrayBuffer>> {
    const { spec, buffers } = this
    const width = spec.tensors.get(spec.head.weight)?.[1] ?? 1
    const rows = (await this.normed(sequences, mask)).length / width
    for (let from = 0; from < rows; from += buffers.headRows) {
      const count = Math.min(buffers.headRows, rows - from)
      yield await this.lend(async () => {
        const work: NativeWork = {
          writes: [],
          dispatches: new GradientPass(buffers, noShape, this.touched).logits(from, count),
          reads: [{ buffer: buffers.logits, offset: 0, bytes: 4 * spec.vocabulary * count }],
        }
        const [words] = await this.device.dispatch(this.resident, work)
        return new Float32Array((words?.buffer ?? new ArrayBuffer(0)) as ArrayBuffer)
      })
    }
  }

  private async inStages(
    writes: NativeWork['writes'],
    stages: readonly Stage[],
    read: { buffer: number; bytes: number },
  ): Promise<Float32Array<ArrayBuffer>> {
    let work: NativeWork = { writes, dispatches: [], reads: [] }
    for (const { layer, writes, dispatches } of stages) {
      if (writes !== undefined) {
        await this.device.dispatch(this.resident, work)
        work = { writes: await writes(), dispatches: [], reads: [] }
      }
      if (layer !== undefined && layer !== this.loadedLayer && this.buffers.passing.has(layer)) {
        await this.device.dispatch(this.resident, work)
        work = { writes: [], dispatches: [], reads: [] }
        await this.load(this.buffers.passing.get(layer) ?? [])
        this.loadedLayer = layer
      }
      for (const dispatch of dispatches) work.dispatches.push(dispatch)
      if (work.dispatches.length < dispatchesTogether) continue
      await this.device.dispatch(this.resident, work)
      work = { writes: [], dispatches: [], reads: [] }
      this.check?.()
    }
    const [words] = await this.device.dispatch(this.resident, { ...work, reads: [{ ...read, offset: 0 }] })
    return new Float32Array((words?.buffer ?? new ArrayBuffer(0)) as ArrayBuffer)
  }

  /** The root of the sum of the squares of all gradients; NaN or infinite where one of them is. */
  gradientNorm(): Promise<number> {
    return this.lend(async () => {
      const { squares, squareCount, learned } = this.buffers
      let start = 0
      const squaresOf = (block: Block, at: number) =>
        kernels.squares(block.buffer, squares, { elements: packedBytes(block) / 4, start: at })
      const dispatches = [...learned.values()].flatMap(({ name, gradient }) =>
        gradient.flatMap((block) => {
          const elements = packedBytes(block) / 4
          const at = start
          start += Math.ceil(elements / wgsl.block)
          // What no sequence has reached has no gradient.
          if (!this.touched.has(name)) return [kernels.zero(block.buffer, elements), squaresOf(block, at)]
          return [squaresOf(block, at)]
        }),
      )
      const reads = [{ buffer: squares, offset: 0, bytes: 4 * squareCount }]
      const [bytes] = await this.device.dispatch(this.resident, { writes: [], dispatches, reads })
      const sums = new Float32Array((bytes?.buffer ?? new ArrayBuffer(0)) as ArrayBuffer)
      return Math.sqrt(sums.reduce((sum, value) => sum + value, 0))
    })
  }

  /** Moves what has a gradient; the next one begins anew. */
  step({ decay, dense = false, ...at }: AdamwStep): Promise<void> {
    return this.lend(async () => {
      const dispatches = [...this.buffers.learned.values()]
        .filter(({ name }) => dense || this.touched.has(name))
        .flatMap(({ name, blocks, master, gradient, m, v }) => {
          const step = (this.updates.get(name) ?? 0) + 1
          this.updates.set(name, step)
          return blocks.flatMap((block, i) => {
            const of = (some: readonly Block[]) => some[i]?.buffer ?? 0
            const elements = packedBytes({ ...block, dtype: 'F32' }) / 4
            const buffers = { gradient: of(gradient), m: of(m), v: of(v), x: of(master) }
            return [
              kernels.adamw(buffers, { ...at, step, decay: decay(name), elements }),
              ...(of(master) === block.buffer ? [] : [kernels.roundWeights(of(master), block)]),
            ]
          })
        })
      await this.device.dispatch(this.resident, { writes: [], dispatches, reads: [] })
      this.touched.clear()
    })
  }

  /** The elements of a part of a tensor that is trained, [rows, columns]. */
  read(name: string, part: Part = 'master'): Promise<Float32Array<ArrayBuffer>> {
    return this.lend(async () => {
      const [rows, columns] = this.shapeOf(name)
      const values = new Float32Array(rows * columns)
      for (const block of this.learnedOf(name)[part]) {
        const { columns } = block
        const work = {
          writes: [],
          dispatches: [kernels.unpackWeights(block, this.buffers.staging)],
          reads: [{ buffer: this.buffers.staging, offset: 0, bytes: 4 * block.rows * columns }],
        }
        const [bytes] = await this.device.dispatch(this.resident, work)
        values.set(new Float32Array((bytes?.buffer ?? new ArrayBuffer(0)) as ArrayBuffer), block.first * columns)
      }
      return this.buffers.turned.has(name) ? transposed(values, columns, rows) : values
    })
  }

  /** A tensor that is trained as a checkpoint stores it, in its own type. */
  stored(name: string): Promise<Uint8Array> {
    return this.lend(async () => {
      const { blocks } = this.learnedOf(name)
      const parts: Uint8Array[] = []
      for (const block of blocks) {
        const bytes = block.rows * block.columns * (block.dtype === 'F32' ? 4 : 2)
        const work = {
          writes: [],
          dispatches: [kernels.unpackWeights(block, this.buffers.staging)],
          reads: [{ buffer: this.buffers.staging, offset: 0, bytes }],
        }
        parts.push(...(await this.device.dispatch(this.resident, work)))
      }
      return parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts)
    })
  }

  /** Tensors whose gradient has NaN or infinite elements. */
  async nonFinite(): Promise<string[]> {
    const found: string[] = []
    for (const name of this.touched) {
      if (!(await this.read(name, 'gradient')).every(Number.isFinite)) found.push(name)
    }
    return found
  }

  /** The forms of its kernels, which decide about the order of sums. */
  get forms(): Record<string, unknown> {
    const { type } = this.device.info
    return { ...this.buffers.layout.forms, cpu: type === 'cpu' }
  }

  /** Puts elements [rows, columns] there. */
  write(name: string, values: Float32Array, part: Part = 'master'): Promise<void> {
    return this.lend(async () => {
      const learned = this.learnedOf(name)
      const held = this.buffers.turned.has(name) ? transposed(values, ...this.shapeOf(name)) : values
      for (const [i, block] of learned[part].entries()) {
        const { first, rows, columns } = block
        const some = held.slice(first * columns, (first + rows) * columns)
        const own = learned.blocks[i]
        await this.device.dispatch(this.resident, {
          writes: [{ buffer: this.buffers.staging, offset: 0, memory: new Uint8Array(some.buffer) }],
          dispatches: [
            kernels.packWeights(this.buffers.staging, block),
            ...(part === 'master' && own !== undefined && own.buffer !== block.buffer
              ? [kernels.roundWeights(block.buffer, own)]
              : []),
          ],
          reads: [],
        })
      }
      if (part === 'gradient') this.touched.add(name)
    })
  }

  async close(): Promise<void> {
    try {
      await this.device.release(this.resident)
    } catch {
      // A device that is gone has taken its memory along.
    }
  }

  private learnedOf(name: string): Learned {
    const learned = this.buffers.learned.get(name)
    if (learned !== undefined) return learned
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `The tensor ${name} is not trained.`)
  }

  private lend<T>(work: () => Promise<T>): Promise<T> {
    return this.use(({ device }) => {
      if (device === this.device) return work()
      throw new WeightsmithError('ERR_WEIGHTSMITH_DEVICE_LOST', 'The device that the model was trained on is gone.')
    })
  }

  /** Weights as they are stored; those that are trained in f32 as well. */
  private async load(names: readonly string[]): Promise<void> {
    const { buffers, checkpoint } = this
    for (const name of names) {
      const tensor = checkpoint.tensors.get(name)
      if (tensor === undefined) continue
      const masters = buffers.learned.get(name)?.master ?? []
      await this.loadBlocks(checkpoint, tensor, buffers.tensors.get(name) ?? [], masters)
    }
  }

  private async loadBlocks(
    checkpoint: Checkpoint,
    tensor: CheckpointTensor,
    blocks: readonly Block[],
    masters: readonly Block[],
  ): Promise<void> {
    const { staging } = this.buffers
    for (const [i, block] of blocks.entries()) {
      const master = masters[i]
      await this.device.dispatch(this.resident, {
        writes: [{ buffer: staging, offset: 0, ...storedBlock(checkpoint, tensor, block) }],
        dispatches: [
          kernels.packWeights(staging, block),
          ...(master === undefined || master.buffer === block.buffer
            ? []
            : [kernels.widenWeights(block, master.buffer)]),
        ],
        reads: [],
      })
    }
  }

  /** Magnitudes of adapters, while what these add is zeros. */
  private async beginMagnitudes(): Promise<void> {
    const { adapters, passing, tensors } = this.buffers
    const blocks = (tensor: string) => tensors.get(tensor) ?? []
    const begin = async (weights: readonly string[]) => {
      const dispatches = weights.flatMap((weight) => {
        const adapter = adapters.get(weight)
        const [to] = blocks(adapter?.magnitude?.tensor ?? '')
        if (adapter?.magnitude === undefined || to === undefined) return []
        return [...adaptedNorms(weight, adapter, blocks), kernels.copy(adapter.magnitude.norms, to.buffer, 1, to.rows)]
      })
      if (dispatches.length > 0) await this.device.dispatch(this.resident, { writes: [], dispatches, reads: [] })
    }
    const others = new Set([...passing.values()].flat())
    await begin([...adapters.keys()].filter((weight) => !others.has(weight)))
    for (const [layer, names] of passing) {
      if (!names.some((name) => adapters.get(name)?.magnitude !== undefined)) continue
      await this.load(names)
      this.loadedLayer = layer
      await begin(names)
    }
  }

  private batchOf(
    sequences: readonly TrainingSequence[],
    mask?: TeacherMask,
  ): { writes: NativeWork['writes']; shape: BatchShape } {
    const { buffers, spec } = this
    const tokens: { id: number; start: number; row: number }[] = []
    const losses: { id: number; start: number; row: number; target: number | undefined }[] = []
    for (const sequence of sequences) {
      const start = tokens.length
      for (const [i, id] of Array.from(sequence.ids).entries()) tokens.push({ id, start, row: start + i })
      for (const { position, target } of lossRowsOf(sequence, mask)) {
        losses.push({ id: sequence.ids[position] ?? 0, start, row: start + position, target })
      }
    }
    const buckets = {
      id: bucketsOf(tokens.map(({ id }) => id)),
      position: bucketsOf(tokens.map(({ row, start }) => row - start)),
    }
    const write = (buffer: number, words: Uint32Array<ArrayBuffer> | Float32Array<ArrayBuffer>) => ({
      buffer,
      offset: 0,
      memory: new Uint8Array(words.buffer),
    })
    const writes = [
      write(buffers.tokens, packTokens(tokens)),
      write(buffers.lossTokens, packTokens(losses)),
      write(
        buffers.rows,
        Uint32Array.from(losses, ({ row }) => row),
      ),
      write(buffers.buckets.id, buckets.id.words),
      write(buffers.buckets.position, buckets.position.words),
    ]
    const longest = tokens.reduce((most, { start, row }) => Math.max(most, row + 1 - start), 0)
    const rotary = spec.language.attention.rotary?.(longest)
    if (buffers.angles !== undefined && rotary !== undefined && rotary !== this.rotary) {
      writes.push(write(buffers.angles, angleTable(rotary, buffers.layout.tokens)))
      this.rotary = rotary
    }
    const shape = {
      tokens: tokens.length,
      losses: losses.length,
      buckets: { id: buckets.id.count, position: buckets.position.count },
    }
    return { writes, shape }
  }
}

/** Tokens by what they share, for kernel `embed_gradient`: (value, first, end) of each, then the tokens. */
function bucketsOf(values: readonly number[]): { words: Uint32Array<ArrayBuffer>; count: number } {
  const tokens = new Map<number, number[]>()
  for (const [token, value] of values.entries()) {
    const some = tokens.get(value)
    if (some === undefined) tokens.set(value, [token])
    else some.push(token)
  }
  const sorted = [...tokens].sort(([a], [b]) => a - b)
  let end = 0
  const heads = sorted.flatMap(([value, some]) => {
    end += some.length
    return [value, end - some.length, end]
  })
  return { words: Uint32Array.from([...heads, ...sorted.flatMap(([, some]) => some)]), count: sorted.length }
}

/** The model, with places for subnets where it has some. */
function specOf(checkpoint: Checkpoint, { subnets = false }: TrainableOptions): ModelSpec {
  const spec = modelSpec(checkpoint.config, checkpoint.tensors, checkpoint.name)
  return subnets ? withSubnets(spec) : spec
}

/** Throws for what would be trained without effect, such as a tensor of a vision encoder. */
function refuseOthers(
  { language, head }: ModelSpec,
  model: string,
  { tensors, adapters }: Required<Pick<TrainableOptions, 'tensors' | 'adapters'>>,
): void {
  const ops = [...language.embed, ...language.layers.flatMap((layer) => layer.ops), ...language.final]
  const all = new Set([...ops.flatMap(tensorsOfOp), head.weight])
  const other = tensors.find((name) => !all.has(name))
  if (other !== undefined) {
    throw misuse(`The tensor ${other} of ${model} cannot be trained: it is not one of its language model.`)
  }
  const linear = new Set(ops.flatMap((op) => (op.op === 'linear' ? [op.weight] : [])))
  const wrong = adapters.find(({ weight }) => !linear.has(weight))
  if (wrong !== undefined) {
    throw misuse(
      `The tensor ${wrong.weight} of ${model} cannot have an adapter: it is not the matrix of a linear layer of its ` +
        'language model before the head.',
    )
  }
}

/** The head of a teacher. Throws for one that predicts other ids. */
function headOf(teacher: Checkpoint, { vocabulary }: ModelSpec, model: string): CheckpointTensor {
  const spec = modelSpec(teacher.config, teacher.tensors, teacher.name)
  const head = teacher.tensors.get(spec.head.weight)
  if (head !== undefined && spec.vocabulary === vocabulary) return head
  throw misuse(
    `The teacher ${teacher.name} predicts ${spec.vocabulary} ids and ${model} ${vocabulary}; a teacher has the same ` +
      'vocabulary.',
  )
}

function teacherOf(teacher: Checkpoint | KnownLogits | 'self', spec: ModelSpec, model: string) {
  if (teacher === 'self' || 'top' in teacher) return teacher
  const head = headOf(teacher, spec, model)
  return { width: head.shape[1] ?? 0, dtype: dtypeOf(head) }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array<ArrayBuffer>) =>
  new Uint8Array(buffer, byteOffset, byteLength)

function buffersFor(host: Host, spec: ModelSpec, checkpoint: Checkpoint, options: TrainableOptions): GradientBuffers {
  const { tokens, tensors = [], adapters = [], dropout, beside } = options
  const { info } = host.device
  const binding = info.limits.maxStorageBufferBindingSize ?? 2 ** 27
  const stored = (name: string): CheckpointTensor => {
    const tensor = checkpoint.tensors.get(name)
    if (tensor !== undefined) return tensor
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `The program names the tensor ${name}, which is not there.`)
  }
  refuseOthers(spec, checkpoint.name, { tensors, adapters })
  const forms = formsOf(info)
  const depth = spec.language.layers.length
  const { router, mix = 'factor' } = options
  const teacher = options.teacher && teacherOf(options.teacher, spec, checkpoint.name)
  const make = (tapes: number, resident: number, count = tokens) => {
    const layout = { tokens: count, tensors, adapters, dropout, binding, forms, tapes, resident, router, mix }
    return new GradientBuffers(spec, { ...layout, ...(teacher && { teacher }) }, (name) => dtypeOf(stored(name)))
  }
  const whole = make(1, depth)
  if (whole.bytes <= host.memory) {
    // As many layers as there is room for keep their values, which changes no number.
    const each = make(2, depth).bytes - whole.bytes
    const tapes = 1 + Math.floor((host.memory - whole.bytes) / Math.max(1, each))
    return tapes === 1 ? whole : make(Math.min(depth, tapes, options.tapes ?? depth), depth)
  }
  // Weights that do not change can be read when they are needed.
  const frozen = !tensors.some((name) =>
    spec.language.layers.some(({ ops }) => ops.flatMap(tensorsOfOp).includes(name)),
  )
  const least = frozen && depth > 1 ? make(1, 0) : whole
  if (least.bytes <= host.memory) {
    let resident = 0
    while (make(1, resident + 1).bytes <= host.memory) resident++
    return make(1, resident)
  }
  // Half as many tokens, as often as it takes.
  let fewer = Math.floor(tokens / 2)
  const leastOf = (tokens: number) => make(1, least === whole ? depth : 0, tokens).bytes
  while (fewer > 0 && leastOf(fewer) > host.memory) fewer = Math.floor(fewer / 2)
  const what = `${tensors.length + adapters.length > 0 ? 'Training' : 'Running the teacher'} ${checkpoint.name}`
  const others = beside === undefined ? '' : ` beside the teacher ${beside.name}, which takes ${beside.bytes}`
  const instead = fewer > 0 ? `, or ${fewer} tokens, which take ${leastOf(fewer)} bytes` : ', as fewer tokens do not do'
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_OUT_OF_MEMORY',
    `${what} takes ${least.bytes} bytes with ${tokens} tokens a micro-batch` +
      `${least === whole ? '' : ', one layer at a time'}, but memory allows ${host.memory}${others}; give at least as ` +
      `many bytes${instead}${frozen ? '' : '; or train an adapter'}.`,
  )
}
