/** Numbers that are the same in every run, everywhere: a linear congruential walk of one seed, over [0, 1). */

import { math } from './math.js'
export function uniform(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}
