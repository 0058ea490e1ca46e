/**
 * A model on the device: its weights loaded once, then passes over packed sequences. A pass takes the tokens of several
 * sequences one after another, without padding; each token carries where its sequence starts in the cache, so that a
 * batch, one sequence and the next token of many sequences are the same program.
 */

import type { Checkpoint, CheckpointTensor } from '../checkpoint/index.js'
import { isStorable } from '../checkpoint/index.js'
import type { Host } from '../engine.js'
import { WeightsmithError } from '../errors.js'
import { type ModelSpec, modelSpec } from '../families/index.js'
import type { NativeDevice, StoreDType } from '../native/border.js'
import { forwardKernels, noTarget } from './kernels.js'
import { Buffers } from './program.js'

export interface ModelOptions {
  /** Tokens a pass; longer batches take several. Defaults to 1,024, or the model's context where that is shorter. */
  tokens?: number | undefined
  /** Keys and values of so many tokens are kept between passes, for generation. Defaults to none. */
  cache?: number | undefined
}

/** One token of a pass. */
export interface Token {
  id: number
  /** First row of its sequence in the cache, and its own. */
  start: number
  row: number
  /** The id whose loss is asked for. */
  target?: number | undefined
}

export interface Wanted {
  logits?: boolean
  /** The residual stream before the first block and after every block, and what the head is applied to. */
  hidden?: boolean
}

export interface Pass {
  /** −log of the probability of every token's target; 0 where there is none. */
  nll: Float32Array
  /** The id of each token's largest logit. */
  best: Uint32Array
  /** Rows of the vocabulary's size. */
  logits?: Float32Array
  hidden?: Float32Array[]
  normed?: Float32Array
}

type Use = <T>(work: (host: Host) => Promise<T>) => Promise<T>

interface Loaded {
  device: NativeDevice
  resident: number
  buffers: Buffers
}

const defaultTokens = 1024

export class Model {
  readonly spec: ModelSpec
  /** Tokens a pass. */
  readonly tokens: number
  /** Rows of the cache. */
  readonly cache: number
  private loaded: Loaded | undefined
  private last: Promise<unknown> = Promise.resolve()

  constructor(
    private readonly use: Use,
    readonly checkpoint: Checkpoint,
    options: ModelOptions = {},
  ) {
    this.spec = modelSpec(checkpoint.config, checkpoint.tensors, checkpoint.name)
    this.tokens = options.tokens ?? Math.min(this.spec.context, defaultTokens)
    this.cache = options.cache ?? 0
  }

  /**
   * Sequences of ids as the tokens of one pass, each predicted from the ones before it; the last has no target. Throws
   * ERR_WEIGHTSMITH_ARGUMENT for ids that the vocabulary does not have and sequences longer than the context.
   */
  pack(sequences: readonly ArrayLike<number>[]): Token[] {
    const { vocabulary, context } = this.spec
    let start = 0
    return sequences.flatMap((sequence, index) => {
      const ids = Array.from(sequence)
      const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary)
      if (wrong !== undefined) {
        throw argument(
          `Sequence ${index} has the id ${wrong}, but ${this.checkpoint.name} knows 0 to ${vocabulary - 1}.`,
        )
      }
      if (ids.length === 0) throw argument(`Sequence ${index} is empty.`)
      if (ids.length > context) {
        throw argument(
          `Sequence ${index} has ${ids.length} tokens, but the context of ${this.checkpoint.name} has ${context}.`,
        )
      }
      const tokens = ids.map((id, i) => ({ id, start, row: start + i, target: ids[i + 1] }))
      start += ids.length
      return tokens
    })
  }

  /** Runs the model over tokens, as many as a pass takes at most. Passes of one model go one after another. */
  run(tokens: readonly Token[], wanted: Wanted = {}): Promise<Pass> {
    const rows = tokens.length
    if (rows === 0 || rows > this.tokens) {
      throw argument(`A pass takes 1 to ${this.tokens} tokens, but ${rows} were given.`)
    }
    return this.inTurn(() => this.use(async (host) => this.pass(await this.load(host), tokens, wanted)))
  }

  /** Gives the device's memory back; the next pass loads the model again. */
  close(): Promise<void> {
    return this.inTurn(async () => {
      const { loaded } = this
      this.loaded = undefined
      await loaded?.device.release(loaded.resident).catch(() => undefined)
    })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const task = this.last.then(work)
    this.last = task.catch(() => undefined)
    return task
  }

  private async pass({ device, resident, buffers }: Loaded, tokens: readonly Token[], wanted: Wanted): Promise<Pass> {
    const { spec } = this
    const rows = tokens.length
    const words = Uint32Array.from(tokens.flatMap(({ id, start, row, target }) => [id, start, row, target ?? noTarget]))
    let work = {
      writes: [{ buffer: buffers.tokens, offset: 0, memory: new Uint8Array(words.buffer) }],
      dispatches: buffers.embed(rows),
    }
    /** Runs what has come together, and gives the first words of some buffers. */
    const read = async (...wants: [buffer: number, words: number][]): Promise<ArrayBuffer[]> => {
      const reads = wants.map(([buffer, count]) => ({ buffer, offset: 0, bytes: 4 * count }))
      const results = await device.dispatch(resident, { ...work, reads })
      work = { writes: [], dispatches: [] }
      return results.map(({ buffer }) => buffer as ArrayBuffer)
    }
    const activation = async (name: string) => {
      const [bytes] = await read([buffers.activation(name), rows * (spec.activations[name] ?? 0)])
      return new Float32Array(bytes ?? [])
    }
    const hidden: Float32Array[] = []
    if (wanted.hidden) hidden.push(await activation('x'))
    for (const index of spec.layers.keys()) {
      work.dispatches.push(...buffers.layer(index, rows))
      if (wanted.hidden) hidden.push(await activation('x'))
    }
    work.dispatches.push(...buffers.final(rows))
    const normed = wanted.hidden ? await activation(spec.head.x) : undefined
    const logits = wanted.logits ? new Float32Array(rows * spec.vocabulary) : undefined
    for (let from = 0; from < rows; from += buffers.headRows) {
      const part = Math.min(buffers.headRows, rows - from)
      work.dispatches.push(...buffers.head(from, part))
      if (logits === undefined) continue
      const [bytes] = await read([buffers.logits, part * spec.vocabulary])
      logits.set(new Float32Array(bytes ?? []), from * spec.vocabulary)
    }
    const [nll, best] = await read([buffers.nll, rows], [buffers.best, rows])
    return {
      nll: new Float32Array(nll ?? []),
      best: new Uint32Array(best ?? []),
      ...(logits === undefined ? {} : { logits }),
      ...(normed === undefined ? {} : { hidden, normed }),
    }
  }

  /** The model on the device in use: after a loss that is another one. */
  private async load(host: Host): Promise<Loaded> {
    if (this.loaded?.device !== host.device) this.loaded = await this.upload(host)
    return this.loaded
  }

  private async upload({ device, memory }: Host): Promise<Loaded> {
    const { spec, checkpoint } = this
    const binding = device.adapter.limits.maxStorageBufferBindingSize ?? 2 ** 27
    const buffers = new Buffers(spec, { tokens: this.tokens, cache: this.cache, binding }, (name) =>
      dtypeOf(this.tensor(name)),
    )
    if (buffers.bytes > memory) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_OUT_OF_MEMORY',
        `The model ${checkpoint.name} takes ${buffers.bytes} bytes with ${this.tokens} tokens a pass, but memory allows ` +
          `${memory}; give at least as many, or fewer tokens.`,
      )
    }
    const resident = await device.allocate(buffers.sizes)
    try {
      for (const [name, blocks] of buffers.tensors) {
        const { begin, file } = this.tensor(name)
        for (const block of blocks) {
          const row = block.columns * (block.dtype === 'F32' ? 4 : 2)
          const path = checkpoint.files[file]?.path ?? ''
          const at = { begin: begin + block.first * row, bytes: block.rows * row }
          await device.dispatch(resident, {
            writes: [{ buffer: buffers.staging, offset: 0, path, ...at }],
            dispatches: [forwardKernels.turn(buffers.staging, block)],
            reads: [],
          })
        }
      }
      const angles = new Uint8Array(angleTable(spec, this.cache || this.tokens).buffer)
      await device.dispatch(resident, {
        writes: [{ buffer: buffers.angles, offset: 0, memory: angles }],
        dispatches: [],
        reads: [],
      })
    } catch (error) {
      await device.release(resident).catch(() => undefined)
      throw error
    }
    return { device, resident, buffers }
  }

  private tensor(name: string): CheckpointTensor {
    const tensor = this.checkpoint.tensors.get(name)
    if (tensor !== undefined) return tensor
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `The program names the tensor ${name}, which is not there.`)
  }
}

function dtypeOf({ name, dtype }: CheckpointTensor): StoreDType {
  if (isStorable(dtype)) return dtype
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_DTYPE',
    `The tensor ${name} is stored as ${dtype}, but models run on F32, F16 and BF16 only.`,
    { tensor: name },
  )
}

/** (cos, sin) of every pair of a head at every position: float64, rounded once. */
function angleTable({ frequencies }: ModelSpec, positions: number): Float32Array {
  const table = new Float32Array(2 * positions * frequencies.length)
  for (let position = 0, at = 0; position < positions; position++) {
    for (const frequency of frequencies) {
      table[at++] = Math.cos(position * frequency)
      table[at++] = Math.sin(position * frequency)
    }
  }
  return table
}

function argument(message: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', message)
}
