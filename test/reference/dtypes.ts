/**
 * Storage types in plain arithmetic: decoding is exact, encoding rounds a float64 once, to nearest even. Independent of
 * the kernels' bit tricks, which the conformance tests compare with this.
 */

import { math } from '../math.js'

/** Exponent and mantissa bits; `finite`: no Inf, and NaN is the one pattern with all bits set (F8_E4M3). */
const small = {
  F16: { exponent: 5, mantissa: 10, bytes: 2, finite: false },
  BF16: { exponent: 8, mantissa: 7, bytes: 2, finite: false },
  F8_E4M3: { exponent: 4, mantissa: 3, bytes: 1, finite: true },
  F8_E5M2: { exponent: 5, mantissa: 2, bytes: 1, finite: false },
} as const

export type SmallDType = keyof typeof small
export type FloatDType = SmallDType | 'F32' | 'F64'

export function bytesOf(dtype: FloatDType): number {
  if (dtype === 'F32') return 4
  return dtype === 'F64' ? 8 : small[dtype].bytes
}

/** Nearest integer, halves to even. */
function roundEven(value: number): number {
  const floor = math.floor(value)
  const rest = value - floor
  if (rest > 0.5 || (rest === 0.5 && floor % 2 === 1)) return floor + 1
  return floor
}

const words = new DataView(new ArrayBuffer(8))

/** The exponent e with 2^e <= |value| < 2^(e+1), for normal float64 values. */
function exponentOf(value: number): number {
  words.setFloat64(0, value)
  return ((words.getUint16(0) >> 4) & 0x7ff) - 1023
}

/** The bit pattern of `value` in one of the small types. Overflow gives Inf, or NaN where there is no Inf. */
export function encodeBits(dtype: SmallDType, value: number): number {
  const { exponent, mantissa, bytes, finite } = small[dtype]
  const bias = 2 ** (exponent - 1) - 1
  const sign = value < 0 || Object.is(value, -0) ? 2 ** (8 * bytes - 1) : 0
  const infinity = (2 ** exponent - 1) * 2 ** mantissa
  const nan = finite ? 0x7f : infinity + 2 ** (mantissa - 1)
  if (Number.isNaN(value)) return nan
  const overflow = finite ? 0x7f : infinity
  if (!Number.isFinite(value)) return sign + overflow
  const size = math.abs(value)
  const e = math.max(exponentOf(size), 1 - bias)
  const body = (e + bias - 1) * 2 ** mantissa + roundEven(size / 2 ** (e - mantissa))
  return sign + math.min(body, overflow)
}

/** The value of a bit pattern of one of the small types. */
export function decodeBits(dtype: SmallDType, bits: number): number {
  const { exponent, mantissa, bytes, finite } = small[dtype]
  const bias = 2 ** (exponent - 1) - 1
  const half = 2 ** (8 * bytes - 1)
  const sign = bits >= half ? -1 : 1
  const body = bits % half
  const e = math.floor(body / 2 ** mantissa)
  const fraction = body % 2 ** mantissa
  if (finite ? body === 0x7f : e === 2 ** exponent - 1) {
    return finite || fraction !== 0 ? Number.NaN : sign * Number.POSITIVE_INFINITY
  }
  if (e === 0) return sign * fraction * 2 ** (1 - bias - mantissa)
  return sign * (1 + fraction / 2 ** mantissa) * 2 ** (e - bias)
}

/** Values as little-endian bytes of `dtype`. */
export function encode(dtype: FloatDType, values: ArrayLike<number>): Uint8Array {
  const size = bytesOf(dtype)
  const view = new DataView(new ArrayBuffer(values.length * size))
  for (let i = 0; i < values.length; i++) {
    const value = values[i] ?? 0
    if (dtype === 'F64') view.setFloat64(8 * i, value, true)
    else if (dtype === 'F32') view.setFloat32(4 * i, value, true)
    else if (size === 2) view.setUint16(2 * i, encodeBits(dtype, value), true)
    else view.setUint8(i, encodeBits(dtype, value))
  }
  return new Uint8Array(view.buffer)
}

/** Little-endian bytes of `dtype` as values, exactly. */
export function decode(dtype: FloatDType, bytes: Uint8Array): Float64Array {
  const size = bytesOf(dtype)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return Float64Array.from({ length: bytes.byteLength / size }, (_, i) => {
    if (dtype === 'F64') return view.getFloat64(8 * i, true)
    if (dtype === 'F32') return view.getFloat32(4 * i, true)
    return decodeBits(dtype, size === 2 ? view.getUint16(2 * i, true) : view.getUint8(i))
  })
}

/** What a kernel sees of a stored value: rounded to f32, f32 subnormals flushed to signed zero. */
export function asLoaded(value: number): number {
  // A float64 that only rounding lifts to the smallest normal f32 still counts as normal.
  const single = math.fround(value)
  return math.abs(single) < 2 ** -126 ? single * 0 : single
}

/** The stored value closest to `value`, as the kernels store it: f32 subnormals become signed zero first. */
export function rounded(dtype: FloatDType, value: number): number {
  if (dtype === 'F64') return value
  if (dtype === 'F32') return asLoaded(value)
  return decodeBits(dtype, encodeBits(dtype, asLoaded(value)))
}

/** Distance between neighbouring values of `dtype` at the size of `value`. */
export function spacing(dtype: FloatDType, value: number): number {
  const mantissa = dtype === 'F64' ? 52 : dtype === 'F32' ? 23 : small[dtype].mantissa
  const exponent = dtype === 'F64' ? 11 : dtype === 'F32' ? 8 : small[dtype].exponent
  const lowest = 2 - 2 ** (exponent - 1)
  return 2 ** (math.max(exponentOf(math.abs(value)), lowest) - mantissa)
}
