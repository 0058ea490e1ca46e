/**
 * Parameter values of mergekit recipes: a scalar, a gradient over the layers, or a list of filters on tensor names.
 */

import type { ParameterScalar } from '../methods/index.js'

export interface FilteredValue {
  /** Part of a tensor's name; absent (or `*`): every tensor. */
  filter?: string
  value: ParameterScalar | number[]
}

/** `[a, b, c]` runs from `a` in the first layer to `c` in the last one, straight between its points. */
export type ParameterValue = ParameterScalar | number[] | FilteredValue[]

export type Parameters = Readonly<Record<string, ParameterValue>>

/** The value for one tensor at `t` (0: first layer, 1: last layer); undefined where no filter hits. */
export function evaluate(value: ParameterValue, tensor: string, t: number): ParameterScalar | undefined {
  if (!Array.isArray(value)) return value
  if (isGradient(value)) return interpolate(value, t)
  const hit = value.find(({ filter }) => filter === undefined || filter === '*' || tensor.includes(filter))
  if (hit === undefined) return undefined
  return Array.isArray(hit.value) ? interpolate(hit.value, t) : hit.value
}

function isGradient(value: number[] | FilteredValue[]): value is number[] {
  return typeof value[0] === 'number'
}

function interpolate(points: number[], t: number): number {
  const at = Math.min(Math.max(t, 0), 1) * (points.length - 1)
  const left = Math.floor(at)
  const right = Math.min(left + 1, points.length - 1)
  const share = at - left
  const a = points[left] ?? 0
  return share === 0 ? a : (1 - share) * a + share * (points[right] ?? 0)
}
