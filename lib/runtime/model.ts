/**
 * A model on the device: its weights loaded once, then passes over packed sequences. A pass takes the tokens of several
 * sequences one after another, without padding; each token carries where its sequence starts in the cache, so that a
 * batch, one sequence and the next token of many sequences are the same program.
 */

import { open } from 'node:fs/promises'
import { type ModelSpec, modelSpec } from '../architectures/index.js'
import type { Checkpoint, CheckpointTensor } from '../checkpoint/index.js'
import { isStorable, refuseQuantised } from '../checkpoint/index.js'
import type { NativeDevice, NativeWork, StoreDType } from '../native/border.js'
import type { Host } from '../native/host.js'
import { WeightsmithError } from '../util/errors.js'
import { type CaptureOptions, noCapture } from './activation_statistics.js'
import { checkAdapters, type ModelAdapters } from './adapter_buffers.js'
import { type Gate, gatesOf } from './adapters.js'
import { type ForwardOptions, type ForwardOutput, type PackedToken, type PassOptions, runPass } from './forward_pass.js'
import { modelKernels } from './kernels.js'
import { captureOf, type LayerwiseOptions, layerwisePass } from './layerwise_pass.js'
import { type Block, formsOf, packedBytes } from './ops/index.js'
import { pack, type TokenSequence } from './pack.js'
import { type Partition, partitionsOf, tensorsOf, wholeOf } from './partition.js'
import { Buffers, imagesOf } from './program.js'
import type { HookPoint } from './statistics.js'
import { type Subnet, withSubnets } from './subnet.js'
import { readGrams, readSums, type WeightSums } from './sums.js'
import { streamingOf, type WeightStreaming } from './weight_streaming.js'
import type { OnDevice } from './work.js'

export interface ModelOptions {
  /** Tokens a pass; longer batches take several. Defaults to 1,024, or the model's context where that is shorter. */
  batchTokens?: number | undefined
  /** Rows and columns of tensors that are zeros when the model runs, whatever the files say; by tensor. */
  zeros?: ReadonlyMap<string, Zeros> | undefined
  /** Keys and values of so many tokens are kept between passes, for generation. Defaults to none. */
  cache?: number | undefined
  /** Runs as this part of it; see `Model.subnet`. Defaults to all of it, and no other later. */
  subnet?: Subnet | undefined
  /**
   * What linears add to what they make; adapters are not folded into weights, so that a mixture of experts runs with
   * the gates of every subnet. With a mixture, all passes are ones through a subnet with a `description`.
   */
  adapters?: ModelAdapters | undefined
}

export interface Zeros {
  rows?: readonly number[]
  columns?: readonly number[]
}

type Use = <T>(work: (host: Host) => Promise<T>) => Promise<T>

/** How a model goes through the device: whole, in partitions, or in partitions that take turns in the same buffers. */
interface ExecutionPlan {
  partitions: readonly Partition[]
  capture: CaptureOptions
  streaming?: WeightStreaming | undefined
}

interface Loaded {
  /** Which buffers they are: of a partition and its capture, or of weights that stream. */
  key: string
  partition: Partition
  device: NativeDevice
  resident: number
  buffers: Buffers
}

/**
 * Passes one after another, none of which knows the next; or one layerwise pass, which has all of its batches at once.
 */
type PlanMode = 'repeated' | 'layerwise'

export interface ForecastOptions extends LayerwiseOptions {
  /** Defaults to `repeated`. */
  mode?: PlanMode
}

/** Share of the memory that partitions of a model leave to what waits between them. */
const waitingShare = 1 / 8

const defaultTokens = 1024

export class Model {
  readonly spec: ModelSpec
  /** Tokens a pass. */
  readonly batchTokens: number
  /** Rows of the cache. */
  readonly cache: number
  /**
   * What passes that are asked for from now on go through. The weights on the device stay what they are, so that one
   * model that was opened with a subnet runs as all of them.
   */
  subnet: Subnet | undefined
  private readonly zeros: ReadonlyMap<string, Zeros>
  private readonly adapters: ModelAdapters | undefined
  /** Experts that count in passes through a subnet, which its router has said. */
  private readonly experts = new WeakMap<Subnet, readonly Gate[]>()
  private loaded: Loaded | undefined
  /** How passes go there, on the device that it was asked for. */
  private plan: { device: NativeDevice; plan: ExecutionPlan } | undefined
  private last: Promise<unknown> = Promise.resolve()

  constructor(
    private readonly use: Use,
    readonly checkpoint: Checkpoint,
    options: ModelOptions = {},
  ) {
    refuseQuantised(checkpoint, 'convert it to float16 or bfloat16 before it is run, scored or pruned')
    const spec = modelSpec(checkpoint.config, checkpoint.tensors, checkpoint.name)
    this.spec = options.subnet === undefined ? spec : withSubnets(spec)
    this.subnet = options.subnet
    this.batchTokens = options.batchTokens ?? Math.min(this.spec.context, defaultTokens)
    this.cache = options.cache ?? 0
    this.zeros = options.zeros ?? new Map()
    this.adapters = options.adapters
    if (options.adapters !== undefined) checkAdapters(spec, options.adapters, checkpoint.name)
  }

  /**
   * Sequences as the tokens of one pass, each predicted from the ones before it; the last has no target, and rows of
   * images are no targets. The id of an image becomes the rows of its features. Throws ERR_WEIGHTSMITH_ARGUMENT for ids
   * that the vocabulary does not have, for images that are missing or of another size, and for sequences longer than
   * the context.
   */
  pack(sequences: readonly TokenSequence[]): PackedToken[] {
    return pack({ spec: this.spec, name: this.checkpoint.name }, sequences)
  }

  /**
   * Runs the model over tokens, as many as a pass takes at most. Passes of one model go one after another. A model that
   * is larger than the memory is read from its files for every pass, but for what stays on the device.
   */
  run(tokens: readonly PackedToken[], wanted: ForwardOptions = {}): Promise<ForwardOutput> {
    return this.runAll([{ tokens, wanted }]).then(([pass]) => pass as ForwardOutput)
  }

  /**
   * Runs several passes one after another; each partition of a model that is larger than the memory is read once for
   * all.
   */
  runAll(
    passes: readonly { tokens: readonly PackedToken[]; wanted?: ForwardOptions | undefined }[],
    { check }: Pick<LayerwiseOptions, 'check'> = {},
  ): Promise<ForwardOutput[]> {
    const batches = passes.map(({ tokens }) => tokens)
    for (const tokens of batches) this.checkPass(tokens)
    const found: ForwardOutput[] = []
    const wanted = (batch: number) => passes[batch]?.wanted ?? {}
    const onPass = (batch: number, pass: ForwardOutput) => {
      const { hidden = [], images } = found[batch] ?? {}
      const seen = images ?? pass.images
      found[batch] = {
        ...pass,
        ...(pass.hidden && { hidden: [...hidden, ...pass.hidden] }),
        ...(seen && { images: seen }),
      }
    }
    const { subnet } = this
    return this.inTurn(() =>
      this.use(async (host) => {
        await this.go(host, this.repeatedPlan(host), batches, { wanted, onPass, check }, subnet)
        return found
      }),
    )
  }

  /** Whether passes leave the model on the device, or read what does not fit there each time. */
  stays(): Promise<boolean> {
    return this.use(async (host) => this.repeatedPlan(host).partitions.length === 1)
  }

  /** Gives the device's memory back; the next pass loads the model again. */
  close(): Promise<void> {
    return this.inTurn(() => this.unload())
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const task = this.last.then(work)
    this.last = task.catch(() => undefined)
    return task
  }

  /**
   * Batches of tokens go through the model, each as one pass, and are watched. A model that is larger than the memory
   * goes through the device in partitions, with the same numbers. Throws ERR_WEIGHTSMITH_OUT_OF_MEMORY where not even
   * one layer fits.
   */
  layerwisePass(batches: readonly (readonly PackedToken[])[], options: LayerwiseOptions = {}): Promise<void> {
    for (const tokens of batches) this.checkPass(tokens)
    const { subnet } = this
    return this.inTurn(() =>
      this.use(async (host) => {
        const plan = this.planOf(host, captureOf(options), 'layerwise')
        try {
          await this.go(host, plan, batches, options, subnet)
        } finally {
          // What is left of it is of use for the next layerwisePass, but not for passes.
          if (plan.partitions.length > 1 || plan.capture.grams.length > 0) await this.unload()
        }
      }),
    )
  }

  private async go(
    host: Host,
    plan: ExecutionPlan,
    batches: readonly (readonly PackedToken[])[],
    options: LayerwiseOptions,
    subnet: Subnet | undefined,
  ): Promise<void> {
    const model = {
      spec: this.spec,
      partitions: plan.partitions,
      room: plan.partitions.length === 1 ? 0 : Math.max(0, host.memory - this.bytesOf(host, plan)),
      load: async (partition: Partition) => this.stage(await this.load(host, partition, plan), subnet),
      prefetch: (partition: Partition, signal: AbortSignal) => this.prefetch(partition, plan, signal),
    }
    await layerwisePass(model, batches, options)
  }

  /**
   * How many partitions the model goes through the device in, the most bytes that are taken there at a time, and the
   * bytes of weights that are read from the files for every pass; a layerwise pass reads them once for all of its
   * batches.
   */
  forecast({ mode = 'repeated', ...options }: ForecastOptions = {}): Promise<{
    partitions: number
    bytes: number
    bytesReadPerPass: number
  }> {
    return this.use(async (host) => {
      const plan = this.planOf(host, captureOf(options), mode)
      const read =
        plan.partitions.length === 1 ? [] : plan.partitions.flatMap((partition) => this.passing(partition, plan))
      const bytesReadPerPass = read.reduce((sum, { begin, end }) => sum + end - begin, 0)
      return { partitions: plan.partitions.length, bytes: this.bytesOf(host, plan), bytesReadPerPass }
    })
  }

  /** Milliseconds that tokens take through the first layer, and that it took to load a byte of its weights. */
  paceOf(tokens: readonly PackedToken[]): Promise<{ run: number; load: number }> {
    this.checkPass(tokens)
    return this.inTurn(() =>
      this.use(async (host) => {
        const partition = { enter: false, first: 0, end: 1, leave: false }
        const plan = { partitions: [partition], capture: noCapture }
        await this.unload()
        const begin = performance.now()
        const stage = await this.stage(await this.load(host, partition, plan), this.subnet)
        const loaded = performance.now() - begin
        const bytes = this.passing(partition, plan).reduce((sum, { begin, end }) => sum + end - begin, 0)
        const width = this.spec.language.activations.x ?? 0
        const run = (some: readonly PackedToken[]) =>
          stage.run(some, { from: { layer: 0, x: new Float32Array(width * some.length) } })
        // The first pass compiles the kernels, which are others for a row than for many.
        await run(tokens.slice(0, 64))
        const ready = performance.now()
        await run(tokens)
        return { run: performance.now() - ready, load: loaded / bytes }
      }),
    )
  }

  private repeatedPlan(host: Host): ExecutionPlan {
    if (this.plan?.device !== host.device) {
      this.plan = { device: host.device, plan: this.planOf(host, noCapture, 'repeated') }
    }
    return this.plan.plan
  }

  private planOf(host: Host, capture: CaptureOptions, mode: PlanMode): ExecutionPlan {
    const { spec } = this
    const whole = this.buffersOf(host, wholeOf(spec), capture)
    if (whole.bytes <= host.memory) return { partitions: [wholeOf(spec)], capture }
    if (mode === 'repeated') {
      const forWeights = host.memory - (whole.bytes - whole.weightBytes)
      const streaming = streamingOf(spec, forWeights, (name) => whole.blocksOf(name).map(packedBytes))
      if (streaming !== undefined) return { partitions: streaming.partitions, capture, streaming }
    } else {
      const limit = host.memory * (1 - waitingShare)
      const partitions = partitionsOf(spec, (partition) => this.buffersOf(host, partition, capture).bytes <= limit)
      if (partitions !== undefined) return { partitions, capture }
    }
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_OUT_OF_MEMORY',
      `The model ${this.checkpoint.name} takes ${whole.bytes} bytes with ${this.batchTokens} tokens a pass, and neither it nor one of its ` +
        `layers at a time fits the ${host.memory} bytes of memory; give more, or fewer tokens.`,
    )
  }

  /** The most bytes that are taken on the device at a time. */
  private bytesOf(host: Host, { partitions, capture, streaming }: ExecutionPlan): number {
    const each = streaming === undefined ? partitions : partitions.slice(0, 1)
    return each.reduce(
      (most, partition) => Math.max(most, this.buffersOf(host, partition, capture, streaming).bytes),
      0,
    )
  }

  private async stage({ device, resident, buffers }: Loaded, subnet: Subnet | undefined) {
    const { spec } = this
    const experts = await this.expertsOf({ device, resident, buffers }, subnet)
    return {
      run: (tokens: readonly PackedToken[], passOptions: PassOptions, wanted: ForwardOptions = {}) =>
        runPass({ device, resident, buffers }, spec, tokens, wanted, { ...passOptions, subnet, experts }),
      sums: (wanted: WeightSums) => readSums({ device, resident, buffers }, wanted),
      grams: (add: (hook: HookPoint, first: number, rows: Float32Array) => Promise<void>) =>
        readGrams({ device, resident, buffers }, add),
    }
  }

  /** Experts that count in passes through a subnet; its router is asked once, and without noise. */
  private async expertsOf(
    { device, resident, buffers }: OnDevice,
    subnet: Subnet | undefined,
  ): Promise<readonly Gate[]> {
    const router = buffers.adapters?.router
    if (router === undefined) return []
    const input = subnet?.description
    if (subnet === undefined || input?.length !== router.spec.inputs) {
      throw argument(
        `The mixture of ${this.checkpoint.name} takes passes through subnets that ${router.spec.inputs} numbers ` +
          `describe, but ${input === undefined ? 'there is no description' : `${input.length} were given`}.`,
      )
    }
    const known = this.experts.get(subnet)
    if (known !== undefined) return known
    const found = gatesOf(await router.ask(device, resident, input))
    this.experts.set(subnet, found)
    return found
  }

  /** Reads what a partition will need, so that the system has it in memory when it is loaded. */
  private async prefetch(partition: Partition, plan: ExecutionPlan, signal: AbortSignal): Promise<void> {
    const scratch = new Uint8Array(2 ** 20)
    for (const { begin, end, file } of this.passing(partition, plan)) {
      const { path = '', memory } = this.checkpoint.files[file] ?? {}
      if (memory !== undefined) continue
      const handle = await open(path, 'r')
      try {
        for (let at = begin; at < end && !signal.aborted; at += scratch.length) {
          await handle.read(scratch, 0, Math.min(scratch.length, end - at), at)
        }
      } finally {
        await handle.close()
      }
    }
  }

  /** Tensors of a partition that do not stay on the device. */
  private passing(partition: Partition, { streaming }: ExecutionPlan): CheckpointTensor[] {
    const [first] = streaming?.stays === true ? streaming.partitions : []
    const held = first === undefined ? new Set<string>() : tensorsOf(this.spec, first)
    return [...tensorsOf(this.spec, partition)].filter((name) => !held.has(name)).map((name) => this.tensor(name))
  }

  private checkPass(tokens: readonly PackedToken[]): void {
    const rows = tokens.length
    if (rows === 0 || rows > this.batchTokens) {
      throw argument(`A pass takes 1 to ${this.batchTokens} tokens, but ${rows} were given.`)
    }
    const images = new Set(tokens.flatMap(({ image }) => (image === undefined ? [] : [image.pixels]))).size
    const most = imagesOf(this.spec, this.batchTokens)
    if (images <= most) return
    throw argument(`A pass of ${this.batchTokens} tokens takes up to ${most} images, but ${images} were given.`)
  }

  /** A partition of the model on the device in use: after a loss that is another one. */
  private async load(host: Host, partition: Partition, { capture, streaming }: ExecutionPlan): Promise<Loaded> {
    const key = JSON.stringify([streaming ?? partition, capture])
    let { loaded } = this
    if (loaded?.device !== host.device || loaded.key !== key) {
      await this.unload()
      const buffers = this.buffersOf(host, partition, capture, streaming)
      if (buffers.bytes > host.memory) {
        throw new WeightsmithError(
          'ERR_WEIGHTSMITH_OUT_OF_MEMORY',
          `The model ${this.checkpoint.name} takes ${buffers.bytes} bytes with ${this.batchTokens} tokens a pass, but memory allows ` +
            `${host.memory}; give at least as many, or fewer tokens.`,
        )
      }
      const resident = await host.device.allocate(buffers.sizes)
      loaded = { key, partition, device: host.device, resident, buffers }
      this.loaded = loaded
      await this.upload(loaded, buffers.tensors.keys())
      await this.uploadAdapters(loaded)
      if (streaming === undefined) return loaded
    } else if (loaded.partition === partition) return loaded
    loaded.partition = partition
    if (streaming !== undefined) await this.upload(loaded, loaded.buffers.hold(partition))
    return loaded
  }

  private async unload(): Promise<void> {
    const { loaded } = this
    this.loaded = undefined
    try {
      await loaded?.device.release(loaded.resident)
    } catch {
      // A device that is gone has taken its memory along.
    }
  }

  private buffersOf(
    { device }: Host,
    partition: Partition,
    capture: CaptureOptions,
    streaming?: WeightStreaming,
  ): Buffers {
    const binding = device.info.limits.maxStorageBufferBindingSize ?? 2 ** 27
    const forms = formsOf(device.info)
    const lists = [...this.zeros.values()].flatMap(({ rows = [], columns = [] }) => [rows.length, columns.length])
    const list = Math.max(0, ...lists)
    const { batchTokens: tokens, cache, adapters } = this
    const room = { tokens, cache, binding, forms, partition, streaming, capture, list, adapters }
    return new Buffers(this.spec, room, (name) => dtypeOf(this.tensor(name)))
  }

  /** Reads the weights of tensors into their buffers. */
  private async upload({ device, resident, buffers }: Loaded, names: Iterable<string>): Promise<void> {
    try {
      for (const name of names) {
        const tensor = this.tensor(name)
        for (const block of buffers.tensors.get(name) ?? []) {
          const from = storedBlock(this.checkpoint, tensor, block)
          const writes: NativeWork['writes'] = [{ buffer: buffers.staging, offset: 0, ...from }]
          for (const by of ['row', 'column'] as const) {
            const list = this.zerosOf(name, block, by)
            if (list.length === 0) continue
            writes.push({ buffer: buffers.list, offset: 0, memory: new Uint8Array(list.buffer) })
            const at = { matrix: buffers.staging, list: buffers.list }
            const dispatches = [modelKernels.zeroRowsColumns(at, block, { by, count: list.length })]
            await device.dispatch(resident, { writes: writes.splice(0), dispatches, reads: [] })
          }
          const dispatches = [modelKernels.packWeights(buffers.staging, block)]
          await device.dispatch(resident, { writes, dispatches, reads: [] })
        }
      }
    } catch (error) {
      await this.unload()
      throw error
    }
  }

  /** Loads the factors of adapters, and the router of a mixture. */
  private async uploadAdapters({ device, resident, buffers }: Loaded): Promise<void> {
    try {
      for (const { block, values } of buffers.adapters?.pieces() ?? []) {
        await device.dispatch(resident, {
          writes: [{ buffer: buffers.staging, offset: 0, memory: new Uint8Array(values.buffer) }],
          dispatches: [modelKernels.packWeights(buffers.staging, block)],
          reads: [],
        })
      }
    } catch (error) {
      await this.unload()
      throw error
    }
  }

  /** Rows of a block, counted from its first, or columns that are to be zeros. */
  private zerosOf(name: string, { first, rows }: Block, by: 'row' | 'column'): Uint32Array<ArrayBuffer> {
    const zeros = this.zeros.get(name)
    if (by === 'column') return Uint32Array.from(zeros?.columns ?? [])
    return Uint32Array.from(
      (zeros?.rows ?? []).filter((row) => row >= first && row < first + rows),
      (row) => row - first,
    )
  }

  private tensor(name: string): CheckpointTensor {
    const tensor = this.checkpoint.tensors.get(name)
    if (tensor !== undefined) return tensor
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `The program names the tensor ${name}, which is not there.`)
  }
}

/** Where the bytes of a block of a tensor are. */
export function storedBlock(
  { files }: Checkpoint,
  { begin: start, file }: CheckpointTensor,
  { columns, rows, first, dtype }: Omit<Block, 'buffer'>,
): { memory: Uint8Array } | { path: string; begin: number; bytes: number } {
  const row = columns * (dtype === 'F32' ? 4 : 2)
  const { path = '', memory } = files[file] ?? {}
  const [begin, bytes] = [start + first * row, rows * row]
  return memory ? { memory: memory.subarray(begin, begin + bytes) } : { path, begin, bytes }
}

/** The dtype of a tensor that a model can run on; throws ERR_WEIGHTSMITH_DTYPE for others. */
export function dtypeOf({ name, dtype }: CheckpointTensor): StoreDType {
  if (isStorable(dtype)) return dtype
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_DTYPE',
    `The tensor ${name} is stored as ${dtype}, but models run on F32, F16 and BF16 only.`,
    { tensor: name },
  )
}

function argument(message: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', message)
}
