/** Numbers with nouns, in sentences for people. */

/** `1 tensor`, `1,234 tensors`. */
export function plural(value: number, noun: string): string {
  return `${value.toLocaleString('en-US')} ${noun}${value === 1 ? '' : 's'}`
}
