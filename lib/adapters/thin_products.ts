/**
 * The difference of two stored matrices, a tile of rows at a time, and its products with thin matrices on the device.
 * The whole of it is in memory nowhere.
 */

import type { Checkpoint, CheckpointTensor } from '../checkpoint/index.js'
import type { NativeDispatch } from '../native/border.js'
import type { Host } from '../native/host.js'
import { untilDone } from '../native/job.js'
import { packParameters } from '../native/parameters.js'
import { throwIfAborted, WeightsmithError } from '../util/errors.js'
import { bytesOf } from './device.js'

type Device = Pick<Host, 'device' | 'memory'>

/** Terms of the sums that kernels add in order; tiles are whole runs, so that sums do not depend on them. */
const run = 64
/** Bytes of a tile, about. */
const tileBytes = 8 * 2 ** 20

/** What makes the dispatch of each of these kernels: native/kernels/model/NAME.wgsl. */
export const thinKernels = {
  thinProduct: (
    buffers: [d: number, x: number, y: number],
    size: { rows: number; inner: number; width: number; first: number },
  ): NativeDispatch => ({
    kernel: 'model/thin_product',
    parameters: packParameters('model/thin_product', size),
    buffers,
    grid: groupsOf(Math.ceil(size.rows / 2) * size.width),
  }),

  thinProductTransposed: (
    buffers: [d: number, x: number, z: number],
    size: { rows: number; outer: number; width: number; first: number },
  ): NativeDispatch => ({
    kernel: 'model/thin_product_transposed',
    parameters: packParameters('model/thin_product_transposed', size),
    buffers,
    grid: groupsOf(Math.ceil(size.outer / 2) * size.width),
  }),

  lowRankResidual: (
    buffers: [d: number, a: number, b: number, s: number],
    size: { rows: number; columns: number; rank: number; first: number },
  ): NativeDispatch => ({
    kernel: 'model/low_rank_residual',
    parameters: packParameters('model/low_rank_residual', size),
    buffers,
    grid: groupsOf(size.rows * Math.ceil(size.columns / run)),
  }),
}

/** Workgroups of 64 invocations; a dimension of a grid ends at 65,535. */
function groupsOf(invocations: number): [number, number, number] {
  const groups = Math.max(1, Math.ceil(invocations / 64))
  const x = Math.min(groups, 65535)
  return [x, Math.ceil(groups / x), 1]
}

export interface Side {
  checkpoint: Checkpoint
  tensor: CheckpointTensor
}

interface Tile {
  first: number
  rows: number
  values: Float32Array<ArrayBuffer>
}

/** `tuned` - `base` as a matrix: the first dimension, and all others together. */
export class Difference {
  readonly rows: number
  readonly columns: number

  constructor(
    private readonly host: Device,
    private readonly base: Side,
    private readonly tuned: Side,
    private readonly signal: AbortSignal | undefined,
    /** Called with the bytes that a tile was read from. */
    private readonly onRead: (bytes: number) => void = () => undefined,
  ) {
    const [rows = 1, ...rest] = tuned.tensor.shape
    this.rows = rows
    this.columns = rest.reduce((product, size) => product * size, 1)
  }

  get bytes(): number {
    return [this.base, this.tuned].reduce((sum, { tensor }) => sum + tensor.end - tensor.begin, 0)
  }

  /** In f32: both sides converted, and one rounding. Throws ERR_WEIGHTSMITH_NON_FINITE. */
  async *tiles(): AsyncGenerator<Tile> {
    const step = this.tileRows
    for (let first = 0; first < this.rows; first += step) {
      throwIfAborted(this.signal, 'The extraction')
      const rows = Math.min(step, this.rows - first)
      yield { first, rows, values: await this.read(first, rows) }
      this.onRead((this.bytes / this.rows) * rows)
    }
  }

  private get tileRows(): number {
    return run * Math.max(1, Math.floor(tileBytes / (4 * run * Math.max(1, this.columns))))
  }

  private async read(first: number, rows: number): Promise<Float32Array<ArrayBuffer>> {
    const { device, memory } = this.host
    const values = new Float32Array(rows * this.columns)
    const sides = [this.tuned, this.base]
    const files = sides.map(({ checkpoint, tensor }) => {
      const file = checkpoint.files[tensor.file]
      if (file === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${tensor.name} has no file.`)
      return file
    })
    const job = device.run({
      inputs: files.map(({ path, size }) => ({ path, size })),
      outputs: [{ memory: bytesOf(values) }],
      programs: [{ kernels: [{ kernel: 'linear', writes: 'output' }] }],
      jobs: [
        {
          name: this.tuned.tensor.name,
          program: 0,
          elements: values.length,
          inputs: sides.map(({ tensor: { begin, end, dtype } }, place) => ({
            place,
            offset: begin + ((end - begin) / this.rows) * first,
            dtype,
          })),
          variants: [{ coefficients: [1, -1], output: { place: 0, offset: 0, dtype: 'F32' } }],
        },
      ],
      memory,
      seed: 0,
      checksum: false,
      sync: false,
    })
    const { nonFinite } = await untilDone(job, this.signal)
    if (nonFinite === 0) return values
    const { name } = this.tuned.tensor
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_NON_FINITE',
      `The difference of ${name} between ${this.tuned.checkpoint.name} and ${this.base.checkpoint.name} has ${nonFinite} ` +
        `values that are NaN or infinite in rows ${first} to ${first + rows - 1}.`,
      { tensor: name },
    )
  }

  /** All of it, for a small matrix. */
  async whole(): Promise<Float64Array> {
    const all = new Float64Array(this.rows * this.columns)
    for await (const { first, values } of this.tiles()) all.set(values, first * this.columns)
    return all
  }

  /** D X for X [columns, width]; the width is a multiple of 4. */
  async times(x: Float32Array<ArrayBuffer>, width: number): Promise<Float32Array> {
    const [y] = await this.onDevice([x.length, this.rows * width], [x], (tile) => [
      thinKernels.thinProduct([0, 1, 2], { ...tile, inner: this.columns, width: width / 4 }),
    ])
    return y
  }

  /** Dᵀ X for X [rows, width]; the width is a multiple of 4. */
  async transposedTimes(x: Float32Array<ArrayBuffer>, width: number): Promise<Float32Array> {
    const [z] = await this.onDevice([x.length, this.columns * width], [x], (tile) => [
      thinKernels.thinProductTransposed([0, 1, 2], { ...tile, outer: this.columns, width: width / 4 }),
    ])
    return z
  }

  /** ‖D - B A‖ for A [rank, columns] and B [rows, rank]; without them ‖D‖. Sums of 64 squares are added in float64. */
  async residual(a?: Float32Array<ArrayBuffer>, b?: Float32Array<ArrayBuffer>): Promise<number> {
    const rank = a === undefined ? 0 : a.length / this.columns
    const runs = Math.ceil(this.columns / run)
    const given = [a ?? new Float32Array(4), b ?? new Float32Array(4)]
    let squares = 0
    await this.onDevice(
      [given[0]?.length ?? 4, given[1]?.length ?? 4, this.tileRows * runs],
      given,
      (tile) => [thinKernels.lowRankResidual([0, 1, 2, 3], { ...tile, columns: this.columns, rank })],
      (sums, { rows }) => {
        for (const sum of sums.subarray(0, rows * runs)) squares += sum
      },
    )
    return Math.sqrt(squares)
  }

  /**
   * Runs kernels on every tile, which is buffer 0; the others have these lengths, start as what is given or as zeros,
   * and the last one is read: at the end, or after each tile where `each` takes it.
   */
  private async onDevice(
    lengths: number[],
    given: Float32Array<ArrayBuffer>[],
    dispatches: (tile: { rows: number; first: number }) => NativeDispatch[],
    each?: (values: Float32Array, tile: Tile) => void,
  ): Promise<[Float32Array]> {
    const { device } = this.host
    const tileLength = Math.min(this.rows, this.tileRows) * this.columns
    // Buffers are bound as whole vectors.
    const sizes = [tileLength, ...lengths].map((length) => 16 * Math.ceil(length / 4))
    const resident = await device.allocate(sizes)
    try {
      const last = lengths.length
      const read = { buffer: last, offset: 0, bytes: 4 * (lengths[last - 1] ?? 0) }
      const starts = lengths.map((length, i) => given[i] ?? new Float32Array(length))
      const writes = starts.map((values, i) => ({ buffer: i + 1, offset: 0, memory: bytesOf(values) }))
      await device.dispatch(resident, { writes, dispatches: [], reads: [] })
      for await (const tile of this.tiles()) {
        const [found] = await device.dispatch(resident, {
          writes: [{ buffer: 0, offset: 0, memory: bytesOf(tile.values) }],
          dispatches: dispatches({ rows: tile.rows, first: tile.first }),
          reads: each === undefined ? [] : [read],
        })
        if (found !== undefined) each?.(floats(found), tile)
      }
      if (each !== undefined) return [new Float32Array()]
      const [result] = await device.dispatch(resident, { writes: [], dispatches: [], reads: [read] })
      return [floats(result ?? new Uint8Array())]
    } finally {
      await device.release(resident)
    }
  }
}

function floats(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength))
}
