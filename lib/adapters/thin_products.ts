/**
 * The difference of two stored matrices on the device, and its products with thin matrices. It is read once where the
 * memory holds it as float32; else a tile of rows at a time, for every product again.
 */

import type { Checkpoint, CheckpointFile, CheckpointTensor } from '../checkpoint/index.js'
import type { LoadDType, NativeDispatch, NativeWork } from '../native/border.js'
import { dtypeCodes } from '../native/dtypes.js'
import { packParameters } from '../native/parameters.js'
import { subgroupLanes } from '../native/subgroups.js'
import { throwIfAborted, WeightsmithError } from '../util/errors.js'
import { bytesOf, type Device } from './device.js'
import { elementsOf } from './factors.js'

/** Terms of the sums that kernels add in order; tiles are whole runs, so that sums do not depend on them. */
const run = 64
/** Bytes that are read of both files before they are subtracted, and bytes of a tile that is read again: about. */
const pieceBytes = 16 * 2 ** 20
const tileBytes = 8 * 2 ** 20
/** Rows and columns of the blocks of D, blocks below each other, and vectors of a row that an invocation makes. */
const side = 4
const group = 8
const vectors = 8

/** How a device runs the kernels of thin products: with subgroups of so many lanes, or without (0). */
const form = (kernel: string, lanes: number): { kernel: string; constants: Record<string, number>; across: number } =>
  lanes === 0
    ? { kernel: `model/${kernel}`, constants: {}, across: 64 }
    : { kernel: `model/${kernel}_subgroup`, constants: { SUBGROUP: lanes }, across: lanes }

const blocksOf = (count: number) => Math.ceil(count / side)

/** What makes the dispatch of each of these kernels: native/kernels/model/NAME.wgsl. */
export const thinKernels = {
  difference: (
    buffers: [inputs: number, d: number, s: number],
    types: { tuned: LoadDType; base: LoadDType; keep: boolean },
    size: { elements: number; second: number; columns: number; first: number },
  ): NativeDispatch => {
    const groups = Math.ceil(size.elements / run / 64)
    const x = Math.min(groups, 65535)
    return {
      kernel: 'model/difference',
      constants: { TUNED: dtypeCodes[types.tuned], BASE: dtypeCodes[types.base], KEEP: types.keep ? 1 : 0 },
      parameters: packParameters('model/difference', size),
      buffers,
      grid: [x, Math.ceil(groups / x), 1],
    }
  },

  thinProduct: (
    buffers: [d: number, x: number, y: number],
    transposed: boolean,
    size: Parameters<typeof packParameters<'model/thin_product'>>[1],
    lanes: number,
  ): NativeDispatch => {
    const { across, kernel, constants } = form('thin_product', lanes)
    return {
      kernel,
      constants: { ...constants, TRANSPOSED: transposed ? 1 : 0 },
      parameters: packParameters('model/thin_product', size),
      buffers,
      grid: [Math.ceil(blocksOf(size.lines) / across), Math.ceil(size.width / vectors), 1],
    }
  },

  lowRankResidual: (
    buffers: [d: number, a: number, b: number, s: number],
    size: Parameters<typeof packParameters<'model/low_rank_residual'>>[1],
    lanes: number,
  ): NativeDispatch => {
    const { across, kernel, constants } = form('low_rank_residual', lanes)
    return {
      kernel,
      constants,
      parameters: packParameters('model/low_rank_residual', size),
      buffers,
      grid: [Math.ceil(blocksOf(size.rows) / across), Math.ceil(size.across / vectors), 1],
    }
  },
}

export interface Side {
  checkpoint: Checkpoint
  tensor: CheckpointTensor
}

interface Tile {
  first: number
  rows: number
  buffer: number
}

/** Buffers: bytes of both files, sums of the difference and of residuals, two thin matrices, and then tiles of D. */
const place = { inputs: 0, sums: 1, rests: 2, x: 3, y: 4, tiles: 5 }

interface Loaded {
  resident: number
  /** Columns of thin matrices that there is room for. */
  width: number
  tiles: Tile[]
  /** Whether all tiles are there, or one at a time. */
  whole: boolean
}

export interface DifferenceOptions {
  signal?: AbortSignal | undefined
  /** Is told of bytes that have been read. */
  onRead?: ((bytes: number) => void) | undefined
}

/** `tuned` - `base` as a matrix: the first dimension, and all others together. */
export class Difference {
  readonly rows: number
  readonly columns: number
  private readonly across: number
  private readonly lanes: number
  private loaded: Loaded | undefined
  private known: number | undefined

  constructor(
    private readonly host: Device,
    private readonly tuned: Side,
    private readonly base: Side,
    private readonly options: DifferenceOptions = {},
  ) {
    const elements = elementsOf(tuned.tensor)
    this.rows = tuned.tensor.shape[0] ?? 1
    this.columns = elements / this.rows
    this.across = blocksOf(this.columns)
    this.lanes = subgroupLanes(host.device.info)
  }

  /** How often both files are read for so many products of a width. */
  reads(products: number, width: number): number {
    return this.fits(width) ? 1 : 1 + products
  }

  /** ‖D‖, without keeping D. Sums of 64 squares are added in float64. */
  async norm(): Promise<number> {
    if (this.known !== undefined) return this.known
    const resident = await this.host.device.allocate(this.sizes(0, []))
    try {
      return await this.readNorm(resident, [this.all])
    } finally {
      await this.host.device.release(resident)
    }
  }

  /** Reads D, for thin matrices of this width, and gives ‖D‖. Throws ERR_WEIGHTSMITH_NON_FINITE. */
  async load(width: number): Promise<number> {
    await this.withRoom(width)
    return this.known ?? 0
  }

  /** Drops what is on the device; what is asked for afterwards is read again. */
  async release(): Promise<void> {
    const { resident } = this.loaded ?? {}
    this.loaded = undefined
    if (resident !== undefined) await this.host.device.release(resident)
  }

  /** All of it, row by row, for a small matrix. */
  async whole(): Promise<Float32Array> {
    const { columns, across } = this
    const all = new Float32Array(this.rows * columns)
    const loaded = await this.withRoom(side)
    for (const tile of loaded.tiles) {
      if (!loaded.whole) await this.subtract(loaded.resident, tile, true)
      const { buffer, first, rows } = tile
      const reads = [{ buffer, offset: 0, bytes: this.bytesOf(rows) }]
      const [read] = await this.host.device.dispatch(loaded.resident, { writes: [], dispatches: [], reads })
      const blocks = floats(read)
      for (let row = 0; row < rows; row++) {
        const strip = Math.floor(row / side / group) * across
        const within = side * (Math.floor(row / side) % group) + (row % side)
        for (let column = 0; column < columns; column++) {
          const vector = (strip + Math.floor(column / side)) * group * side + within
          all[(first + row) * columns + column] = blocks[side * vector + (column % side)] ?? 0
        }
      }
    }
    return all
  }

  /** D X for X [columns, width]; the width is a multiple of 4. */
  async times(x: Float32Array<ArrayBuffer>, width: number): Promise<Float32Array> {
    return this.product(x, width, false)
  }

  /** Dᵀ X for X [rows, width]; the width is a multiple of 4. */
  async transposedTimes(x: Float32Array<ArrayBuffer>, width: number): Promise<Float32Array> {
    return this.product(x, width, true)
  }

  private async product(x: Float32Array<ArrayBuffer>, width: number, transposed: boolean): Promise<Float32Array> {
    const { rows, columns, across, lanes } = this
    const lines = transposed ? columns : rows
    const thin = { width: width / side, across }
    const size = ({ first, rows }: Tile) =>
      transposed
        ? { ...thin, lines: columns, inner: rows, start: first, to: 0, onto: first === 0 ? 0 : 1 }
        : { ...thin, lines: rows, inner: columns, start: 0, to: first, onto: 0 }
    return this.onDevice(
      width,
      [{ buffer: place.x, values: x }],
      (tile) => thinKernels.thinProduct([tile.buffer, place.x, place.y], transposed, size(tile), lanes),
      { buffer: place.y, length: lines * width },
    )
  }

  /** ‖D - B A‖ for A [rank, columns] and B [rows, rank]. Sums of 128 squares are added in float64. */
  async residual(a: Float32Array<ArrayBuffer>, b: Float32Array<ArrayBuffer>): Promise<number> {
    const { rows, columns, across, lanes } = this
    const given = a.length / columns
    const rank = side * blocksOf(given)
    const wide = padded(a, given, columns, rank, side * across)
    const sums = await this.onDevice(
      rank,
      [
        { buffer: place.x, values: wide },
        { buffer: place.y, values: padded(b, rows, given, rows, rank) },
      ],
      (tile) =>
        thinKernels.lowRankResidual(
          [tile.buffer, place.x, place.y, place.rests],
          { rows: tile.rows, rank, across, start: tile.first },
          lanes,
        ),
      { buffer: place.rests, length: blocksOf(rows) * Math.ceil(across / vectors) },
    )
    let squares = 0
    for (const sum of sums) squares += sum
    return Math.sqrt(squares)
  }

  /** Writes, runs a kernel on every tile, and reads. */
  private async onDevice(
    width: number,
    given: { buffer: number; values: Float32Array<ArrayBuffer> }[],
    dispatch: (tile: Tile) => NativeDispatch,
    result: { buffer: number; length: number },
  ): Promise<Float32Array> {
    const { device } = this.host
    const writes = given.map(({ buffer, values }) => ({ buffer, offset: 0, memory: bytesOf(values) }))
    const reads = [{ buffer: result.buffer, offset: 0, bytes: 4 * result.length }]
    const { resident, tiles, whole } = await this.withRoom(width)
    if (whole) {
      throwIfAborted(this.options.signal, 'The extraction')
      const [read] = await device.dispatch(resident, { writes, dispatches: tiles.map(dispatch), reads })
      return floats(read)
    }
    let work: NativeWork = { writes, dispatches: [], reads: [] }
    for (const tile of tiles) {
      await this.subtract(resident, tile, true)
      await device.dispatch(resident, { ...work, dispatches: [dispatch(tile)] })
      work = { writes: [], dispatches: [], reads: [] }
    }
    const [read] = await device.dispatch(resident, { writes: [], dispatches: [], reads })
    return floats(read)
  }

  /** What is loaded, with room for thin matrices of so many columns. */
  private async withRoom(width: number): Promise<Loaded> {
    if (this.loaded !== undefined && this.loaded.width >= width) return this.loaded
    await this.release()
    const whole = this.fits(width)
    const tiles = this.tiles(whole)
    const buffers = whole ? tiles : tiles.slice(0, 1)
    const resident = await this.host.device.allocate(
      this.sizes(
        width,
        buffers.map(({ rows }) => this.bytesOf(rows)),
      ),
    )
    this.loaded = { resident, width, tiles, whole }
    if (whole || this.known === undefined) await this.readNorm(resident, whole ? tiles : [this.all], whole)
    return this.loaded
  }

  private get all(): Tile {
    return { first: 0, rows: this.rows, buffer: place.y }
  }

  /** Of so many rows of D in blocks. */
  private bytesOf(rows: number): number {
    return 4 * side * side * group * this.across * Math.ceil(rows / side / group)
  }

  private tiles(whole: boolean): Tile[] {
    const most = Math.min(this.host.device.info.limits.maxStorageBufferBindingSize ?? tileBytes, this.host.memory)
    const bytes = whole ? most : Math.min(most, tileBytes)
    const step = run * Math.max(1, Math.floor(bytes / this.bytesOf(run)))
    return Array.from({ length: Math.ceil(this.rows / step) }, (_, i) => ({
      first: step * i,
      rows: Math.min(step, this.rows - step * i),
      buffer: place.tiles + (whole ? i : 0),
    }))
  }

  private fits(width: number): boolean {
    const sizes = this.sizes(
      width,
      this.tiles(true).map(({ rows }) => this.bytesOf(rows)),
    )
    return sizes.reduce((sum, size) => sum + size, 0) <= this.host.memory
  }

  private sizes(width: number, tiles: number[]): number[] {
    const { second, elements } = this.piece
    const thin = 4 * width * side * Math.max(blocksOf(this.rows), this.across)
    const rests = 4 * blocksOf(this.rows) * Math.ceil(this.across / vectors)
    const sides = second + elements * this.bytesEach(this.base)
    return [sides, 8 * Math.ceil(elements / run), width > 0 ? rests : 0, thin, thin, ...tiles].map(
      (size) => 16 * Math.ceil(size / 16),
    )
  }

  private bytesEach({ tensor }: Side): number {
    return (tensor.end - tensor.begin) / (this.rows * this.columns)
  }

  /** How many elements are subtracted at once, and where those of `base` lie. */
  private get piece(): { elements: number; second: number } {
    const each = this.bytesEach(this.tuned) + this.bytesEach(this.base)
    const most = run * Math.max(1, Math.floor(pieceBytes / each / run))
    const elements = Math.min(most, this.rows * this.columns)
    return { elements, second: 16 * Math.ceil((elements * this.bytesEach(this.tuned)) / 16) }
  }

  private async readNorm(resident: number, tiles: Tile[], keep = false): Promise<number> {
    let [squares, odd] = [0, 0]
    for (const tile of tiles) {
      const sums = await this.subtract(resident, tile, keep)
      squares += sums.squares
      odd += sums.odd
    }
    if (odd > 0) {
      const { name } = this.tuned.tensor
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_NON_FINITE',
        `The difference of ${name} between ${this.tuned.checkpoint.name} and ${this.base.checkpoint.name} has ${odd} ` +
          'values that are NaN or infinite.',
        { tensor: name },
      )
    }
    this.known = Math.sqrt(squares)
    return this.known
  }

  /** Reads rows of both files, and leaves their difference in the buffer of the tile. */
  private async subtract(resident: number, tile: Tile, keep: boolean): Promise<{ squares: number; odd: number }> {
    const { device } = this.host
    const { elements: most, second } = this.piece
    const sides = [
      { side: this.tuned, offset: 0 },
      { side: this.base, offset: second },
    ]
    const types = { tuned: this.tuned.tensor.dtype, base: this.base.tensor.dtype } as {
      tuned: LoadDType
      base: LoadDType
    }
    const total = tile.rows * this.columns
    let [squares, odd] = [0, 0]
    for (let first = 0; first < total; first += most) {
      throwIfAborted(this.options.signal, 'The extraction')
      const elements = Math.min(most, total - first)
      const writes = sides.map(({ side, offset }) => {
        const each = this.bytesEach(side)
        const begin = side.tensor.begin + each * (tile.first * this.columns + first)
        const { path, memory } = fileOf(side)
        const bytes = each * elements
        if (memory === undefined) return { buffer: place.inputs, offset, path, begin, bytes }
        return { buffer: place.inputs, offset, memory: memory.subarray(begin, begin + bytes) }
      })
      const size = { elements, second: second / 16, columns: this.columns, first: keep ? first : 0 }
      const [read] = await device.dispatch(resident, {
        writes,
        dispatches: [thinKernels.difference([place.inputs, tile.buffer, place.sums], { ...types, keep }, size)],
        reads: [{ buffer: place.sums, offset: 0, bytes: 8 * Math.ceil(elements / run) }],
      })
      const sums = floats(read)
      const counts = new Uint32Array(sums.buffer)
      for (let i = 0; i < sums.length; i += 2) {
        squares += sums[i] ?? 0
        odd += counts[i + 1] ?? 0
      }
      this.options.onRead?.((this.bytesEach(this.tuned) + this.bytesEach(this.base)) * elements)
    }
    return { squares, odd }
  }
}

function fileOf({ checkpoint, tensor }: Side): CheckpointFile {
  const file = checkpoint.files[tensor.file]
  if (file === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${tensor.name} has no file.`)
  return file
}

/** [rows, columns] with zeros to the right and below. */
function padded(
  matrix: Float32Array<ArrayBuffer>,
  rows: number,
  columns: number,
  high: number,
  wide: number,
): Float32Array<ArrayBuffer> {
  if (rows === high && columns === wide) return matrix
  const result = new Float32Array(high * wide)
  for (let i = 0; i < rows; i++) result.set(matrix.subarray(i * columns, (i + 1) * columns), i * wide)
  return result
}

function floats(bytes: Uint8Array = new Uint8Array()): Float32Array<ArrayBuffer> {
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer)
}
