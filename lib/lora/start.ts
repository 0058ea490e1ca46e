/**
 * The factors that an adapter of PiSSA or OLoRA began with. Training takes s (B₀ A₀) from the base and adds s (B A),
 * and only B and A are saved, so folding needs the start again. It is the same for whoever computes it, but for
 * rounding: the leading part of an SVD, or of a QR factorisation (peft/tuners/lora/layer.py, pissa_init and
 * olora_init).
 */

import { WeightsmithError } from '../util/errors.js'
import type { Start } from './adapter.js'

/** Side of the largest square whose SVD is computed; the time grows with its cube. */
const largestSvd = 2048

/** Throws ERR_WEIGHTSMITH_FORMAT for a weight that has no such start, or one that is too large for an SVD. */
export function refuseStart(
  start: Start,
  { rows, columns, rank }: { rows: number; columns: number; rank: number },
): void {
  const size = Math.min(rows, columns)
  if (rank > size) throw tooLarge(`rank ${rank} of a weight of ${rows} × ${columns}`)
  if (start === 'pissa' && size > largestSvd) {
    throw tooLarge(
      `the leading part of a weight of ${rows} × ${columns}, and ${largestSvd} is the largest side that is offered`,
    )
  }
}

function tooLarge(what: string): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_FORMAT',
    `The adapter began as ${what}; let PEFT convert it to a plain one (path_initial_model_for_weight_conversion).`,
  )
}
