/**
 * Arrays of NumPy as pickles and .npy files have them: booleans, integers and floats of either byte order in C or
 * Fortran order, and arrays of objects, as typed arrays in C order.
 */

import { type Budget, PickleGlobal, type PickleGlobals, PickleObject, type PickleValue } from './values.js'

const types = {
  b1: ['bool', Uint8Array],
  i1: ['int8', Int8Array],
  i2: ['int16', Int16Array],
  i4: ['int32', Int32Array],
  i8: ['int64', BigInt64Array],
  u1: ['uint8', Uint8Array],
  u2: ['uint16', Uint16Array],
  u4: ['uint32', Uint32Array],
  u8: ['uint64', BigUint64Array],
  f2: ['float16', Float32Array],
  f4: ['float32', Float32Array],
  f8: ['float64', Float64Array],
} as const

type Code = keyof typeof types
export type NumpyType = (typeof types)[Code][0] | 'object'
export type NumpyValues = InstanceType<(typeof types)[Code][1]> | PickleValue[]

/** Dimensions; NumPy has no more. */
const mostDimensions = 64

/** A type of elements. */
export class NumpyDtype extends PickleObject {
  readonly kind = 'a numpy.dtype'

  constructor(
    /** `O`, or a key of the table: kind and bytes. */
    readonly code: Code | 'O',
    public big = false,
  ) {
    super()
  }

  /** `f8` and the like, with the byte order before it where there is one. Nothing for types that are not read. */
  static parse(text: string): NumpyDtype | undefined {
    const [, order = '|', code = ''] = /^([<>|])?([a-zA-Z]\d*)$/.exec(text) ?? []
    if (code === 'O' || code === 'O8') return new NumpyDtype('O')
    return Object.hasOwn(types, code) ? new NumpyDtype(code as Code, order === '>') : undefined
  }

  get name(): NumpyType {
    return this.code === 'O' ? 'object' : types[this.code][0]
  }

  /** Bytes of an element. */
  get size(): number {
    return this.code === 'O' ? 8 : Number(this.code.slice(1))
  }

  /** (version, byte order, subtype, names, fields, size, alignment, flags). */
  build(state: PickleValue): string | undefined {
    const [, order, ...fields] = Array.isArray(state) ? state : []
    if (order !== '<' && order !== '>' && order !== '|') return 'whose byte order is none of <, > and |'
    if (fields.slice(0, 3).some((field) => field !== null)) return 'that has fields, which are not read'
    this.big = order === '>'
    return undefined
  }

  parts(): undefined {
    return undefined
  }
}

/** An array; its values in C order. */
export class NumpyArray extends PickleObject {
  readonly kind = 'a numpy.ndarray'
  dtype: NumpyType = 'object'
  shape: number[] = []
  private elements: NumpyValues | undefined

  constructor(private readonly budget: Budget) {
    super()
  }

  /** Of `bool` 0 and 1; of `float16` singles. */
  get values(): NumpyValues {
    return this.elements ?? []
  }

  /** (version, shape, dtype, whether in Fortran order, bytes or a list of objects). */
  build(state: PickleValue): string | undefined {
    const [, shape, dtype, fortran, data] = Array.isArray(state) ? state : []
    if (!(dtype instanceof NumpyDtype)) return 'without a dtype'
    // Objects are listed in C order, whatever the order of the array.
    return this.fill(shape, dtype, fortran === true && dtype.code !== 'O' ? 'F' : 'C', data)
  }

  /** Takes elements as they are stored; says why it cannot. */
  fill(
    sizes: PickleValue | undefined,
    dtype: NumpyDtype,
    order: 'C' | 'F' | readonly number[],
    data: PickleValue | undefined,
  ): string | undefined {
    const shape = shapeOf(sizes)
    if (shape === undefined) return 'whose shape is none'
    const count = shape.reduce((product, size) => product * size, 1)
    const stored = dtype.code === 'O' ? data : decoded(dtype, data, count, this.budget)
    if (typeof stored === 'string') return stored
    if (!Array.isArray(stored) && !ArrayBuffer.isView(stored)) return 'without its elements'
    if (stored.length !== count) return `of the shape [${shape.join(', ')}] with ${stored.length} elements`
    this.dtype = dtype.name
    this.shape = Array.isArray(order) ? order.map((axis) => shape[axis] ?? 1) : shape
    const elements = stored as NumpyValues
    this.elements = order === 'C' ? elements : rowMajor(elements, shape, order, this.budget)
    return this.elements === undefined ? 'that is larger than its file allows' : undefined
  }

  parts(): readonly PickleValue[] | undefined {
    if (this.elements === undefined) return undefined
    return Array.isArray(this.elements) ? this.elements : []
  }
}

function shapeOf(sizes: PickleValue | undefined): number[] | undefined {
  const whole = (size: unknown) => Number.isSafeInteger(size) && Number(size) >= 0
  if (!Array.isArray(sizes) || sizes.length > mostDimensions || !sizes.every(whole)) return undefined
  return sizes as number[]
}

/** Elements as typed array; a text says why there are none. */
function decoded(
  { code, big, size }: NumpyDtype,
  data: PickleValue | undefined,
  count: number,
  budget: Budget,
): NumpyValues | string {
  if (code === 'O' || !(data instanceof Uint8Array)) return 'without its bytes'
  if (data.length !== count * size) return `of ${count} elements of ${size} bytes with ${data.length} bytes`
  if (!budget.take(2 * data.length)) return 'that is larger than its file allows'
  const own = new Uint8Array(data)
  if (big && size > 1) for (let i = 0; i < own.length; i += size) own.subarray(i, i + size).reverse()
  if (code === 'b1' && own.some((value) => value > 1)) return 'of booleans that are neither 0 nor 1'
  if (code === 'f2') return Float32Array.from(new Uint16Array(own.buffer), half)
  return new types[code][1](own.buffer)
}

/** Elements that lie in Fortran order, or in C order with the axes moved (`shape` before that), in C order. */
function rowMajor(
  stored: NumpyValues,
  shape: readonly number[],
  order: 'F' | readonly number[],
  budget: Budget,
): NumpyValues | undefined {
  if (!budget.take(8 * stored.length)) return undefined
  const steps: number[] = []
  const axes = order === 'F' ? shape.map((_, axis) => axis) : order
  let step = 1
  for (const axis of order === 'F' ? axes : [...shape.keys()].reverse()) {
    steps[axis] = step
    step *= shape[axis] ?? 1
  }
  const result = (Array.isArray(stored) ? [...stored] : stored.slice()) as NumpyValues
  const place = axes.map(() => 0)
  for (let to = 0, from = 0; to < stored.length; to++) {
    result[to] = stored[from] as never
    for (let i = axes.length - 1; i >= 0; i--) {
      const axis = axes[i] ?? 0
      const [size, stride] = [shape[axis] ?? 1, steps[axis] ?? 1]
      from += stride
      place[i] = (place[i] ?? 0) + 1
      if ((place[i] ?? 0) < size) break
      from -= size * stride
      place[i] = 0
    }
  }
  return result
}

/** An IEEE half as a number. */
function half(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023]
  const sign = bits & 0x8000 ? -1 : 1
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction)
}

const ndarray = new PickleGlobal('numpy.ndarray')

const dtype = new PickleGlobal('numpy.dtype', ([name]) => {
  const found = typeof name === 'string' ? NumpyDtype.parse(name) : undefined
  return found === undefined ? `the type ${String(name)}, which is not read` : { value: found }
})

const reconstruct = new PickleGlobal('numpy.core.multiarray._reconstruct', ([type], budget) =>
  type === ndarray ? { value: new NumpyArray(budget) } : 'another class than numpy.ndarray',
)

/** A number of its own: of 64 bits as bigint where it is no safe integer. */
const scalar = new PickleGlobal('numpy.core.multiarray.scalar', ([type, data], budget) => {
  if (!(type instanceof NumpyDtype)) return 'no dtype'
  const values = decoded(type, data, 1, budget)
  if (typeof values === 'string') return `a value ${values}`
  const [value = 0] = values
  if (type.code === 'b1') return { value: value === 1 }
  return { value: typeof value === 'bigint' && Number.isSafeInteger(Number(value)) ? Number(value) : value }
})

/** (buffer, dtype, shape, order, axes): `K` stands for C order whose axes are moved. */
const frombuffer = new PickleGlobal('numpy.core.numeric._frombuffer', ([data, type, shape, order, axes], budget) => {
  if (!(type instanceof NumpyDtype)) return 'no dtype'
  const moved = shapeOf(axes)
  const dimensions = Array.isArray(shape) ? shape.length : -1
  const permutes = moved?.length === dimensions && new Set(moved).size === dimensions
  const how = order === 'K' && permutes && moved.every((axis) => axis < dimensions) ? moved : order
  if (how !== 'C' && how !== 'F' && !Array.isArray(how)) return 'an order that is not read'
  const array = new NumpyArray(budget)
  const wrong = array.fill(shape, type, how as 'C' | 'F' | readonly number[], data)
  return wrong === undefined ? { value: array } : `an array ${wrong}`
})

/** How protocol 2 has bytes: a text, and `latin1`. */
const encode = new PickleGlobal('_codecs.encode', ([text, encoding], budget) => {
  if (typeof text !== 'string' || (encoding !== 'latin1' && encoding !== 'latin-1'))
    return 'another encoding than latin1'
  if (!budget.take(text.length)) return 'more text than its file allows'
  const bytes = Buffer.from(text, 'latin1')
  // Buffer.from takes the low byte of every character, where Python refuses.
  return bytes.toString('latin1') === text ? { value: new Uint8Array(bytes) } : 'a text that is not latin1'
})

/** How protocol 2 has no bytes at all. */
const nothing = new PickleGlobal('__builtin__.bytes', (args) =>
  args.length === 0 ? { value: new Uint8Array() } : 'something to make bytes of',
)

/** What pickles of NumPy 1 and 2 name for arrays and numbers. */
export const numpyGlobals: PickleGlobals = new Map([
  ...['numpy.core', 'numpy._core'].flatMap((core): [string, PickleGlobal][] => [
    [`${core}.multiarray._reconstruct`, reconstruct],
    [`${core}.multiarray.scalar`, scalar],
    [`${core}.numeric._frombuffer`, frombuffer],
  ]),
  ['numpy.ndarray', ndarray],
  ['numpy.dtype', dtype],
  ['_codecs.encode', encode],
  ['__builtin__.bytes', nothing],
])
