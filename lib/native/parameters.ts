/** The parameters of a kernel by name, as the words that its `struct Parameters` reads. */

import { WeightsmithError } from '../util/errors.js'
import { parameterLayouts } from './layouts.js'

/** Kernels that have a `struct Parameters`. */
export type ParameterKernel = Extract<keyof typeof parameterLayouts, string>

/** A number for every field of the struct. */
export type Parameters<K extends ParameterKernel> = Record<keyof (typeof parameterLayouts)[K], number>

const view = new DataView(new ArrayBuffer(4))

/** The bits of an f32. */
export function bitsOf(value: number): number {
  view.setFloat32(0, value)
  return view.getUint32(0)
}

/** Words of the parameters of a kernel: u32 fields are whole numbers, f32 fields are rounded. */
export function packParameters<K extends ParameterKernel>(kernel: K, values: Parameters<K>): number[] {
  const layout: Readonly<Record<string, 'u32' | 'f32'>> = parameterLayouts[kernel]
  const given: Readonly<Record<string, number>> = values
  const unknown = Object.keys(given).find((field) => !Object.hasOwn(layout, field))
  if (unknown !== undefined)
    throw wrong(kernel, `has no parameter ${unknown}; it has ${Object.keys(layout).join(', ')}`)
  return Object.entries(layout).map(([field, type]) => {
    const value = given[field]
    if (value === undefined) throw wrong(kernel, `got no value for its parameter ${field}`)
    if (type === 'f32') return bitsOf(value)
    if (Number.isInteger(value) && value >= 0 && value < 2 ** 32) return value
    throw wrong(kernel, `takes a whole number from 0 to 2^32 - 1 for its parameter ${field}, but got ${value}`)
  })
}

function wrong(kernel: string, what: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `The kernel ${kernel} ${what}.`)
}
