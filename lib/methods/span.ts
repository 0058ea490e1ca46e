/**
 * Methods whose result lies in the span of the inputs (or of their differences from the first): one pass for the inner
 * products, a small float64 computation, one pass that adds up. Two passes, however many iterations the method takes.
 */

import type { Step } from './method.js'

/** Inputs such a method can have besides a base. */
export const mostVectors = 15

/** `origin`: the vectors are the differences from input 0. `host` turns their inner products into factors. */
export function spanStep(host: string, origin: boolean, vectors: number, parameters: number[]): Step {
  return {
    program: {
      host,
      kernels: [
        { kernel: 'gram', writes: (vectors * (vectors + 1)) / 2, constants: { BASE: origin ? 1 : 0 } },
        { kernel: origin ? 'delta' : 'linear', writes: 'output' },
      ],
    },
    coefficients: [origin ? 1 : 0, ...parameters],
  }
}
