/** Parameters of kernels and records in their buffers by name, as the words that the structs of WGSL have. */

import { WeightsmithError } from '../util/errors.js'
import { parameterLayouts, recordLayouts } from './layouts.js'

/** Kernels that have a `struct Parameters`. */
export type ParameterKernel = Extract<keyof typeof parameterLayouts, string>

/** A number for every field of the struct. */
export type Parameters<K extends ParameterKernel> = Record<keyof (typeof parameterLayouts)[K], number>

/** Structs of native/kernels/include/layout.wgsl. */
export type RecordName = keyof typeof recordLayouts

type Fields<R extends RecordName> = Extract<keyof (typeof recordLayouts)[R], string>

const view = new DataView(new ArrayBuffer(4))

/** The bits of an f32. */
function bitsOf(value: number): number {
  view.setFloat32(0, value)
  return view.getUint32(0)
}

/** Words of the parameters of a kernel: u32 fields are whole numbers, f32 fields are rounded. */
export function packParameters<K extends ParameterKernel>(kernel: K, values: Parameters<K>): number[] {
  return pack(`The kernel ${kernel}`, parameterLayouts[kernel], values)
}

/** Words of a record: u32 fields are whole numbers, f32 fields are rounded. */
export function packRecord<R extends RecordName>(record: R, values: Record<Fields<R>, number>): number[] {
  return pack(`The record ${record}`, recordLayouts[record], values)
}

/** How many words a record has. */
export function recordWords(record: RecordName): number {
  return Object.keys(recordLayouts[record]).length
}

/** Which word of a record a field is. */
export function wordOf<R extends RecordName>(record: R, field: Fields<R>): number {
  return Object.keys(recordLayouts[record]).indexOf(field)
}

function pack(
  where: string,
  layout: Readonly<Record<string, 'u32' | 'f32'>>,
  given: Readonly<Record<string, number>>,
): number[] {
  const unknown = Object.keys(given).find((field) => !Object.hasOwn(layout, field))
  if (unknown !== undefined) throw wrong(where, `has no parameter ${unknown}; it has ${Object.keys(layout).join(', ')}`)
  return Object.entries(layout).map(([field, type]) => {
    const value = given[field]
    if (value === undefined) throw wrong(where, `got no value for its parameter ${field}`)
    if (type === 'f32') return bitsOf(value)
    if (Number.isInteger(value) && value >= 0 && value < 2 ** 32) return value
    throw wrong(where, `takes a whole number from 0 to 2^32 - 1 for its parameter ${field}, but got ${value}`)
  })
}

function wrong(where: string, what: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${where} ${what}.`)
}
