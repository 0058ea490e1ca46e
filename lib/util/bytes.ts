/** Amounts of bytes as people write them. */

import { misuse } from './errors.js'

const units: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
}

/** `1GiB`, `512 MiB`, `5GB` or a number of bytes; `what` names the amount in the error. */
export function parseBytes(value: number | string, what: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b)?\s*$/i.exec(String(value))
  const unit = units[(match?.[2] ?? '').toLowerCase()]
  const bytes = match && unit !== undefined ? Math.floor(Number(match[1]) * unit) : Number.NaN
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes
  throw misuse(`The ${what} should be a number of bytes such as 1073741824, 512MiB or 5GB, but "${value}" was found.`)
}
