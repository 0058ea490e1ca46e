/** Sizes of the partial results of the exact threshold selection (kernels `select_sample` and `select`). */

import { layout } from '../../native/layouts.js'

/** Words a block of `select_sample`. */
export function sampleWords(models: number): number {
  return layout.sampleWords * models
}

/** Words a block of `select`. */
export function selectWords(brackets: number): number {
  return layout.selectWords * brackets
}
