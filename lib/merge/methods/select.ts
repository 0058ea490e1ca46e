/** Sizes of the partial results of the exact threshold selection (kernels `select_sample` and `select`). */

/** Words a block of `select_sample`. */
export function sampleWords(models: number): number {
  return 32 * models
}

/** Words a block of `select`. */
export function selectWords(brackets: number): number {
  return 128 * brackets
}
