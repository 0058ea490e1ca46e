/**
 * Which layers see a window of the tokens before them: `layer_types` says it, as in transformers 5; other keys where it
 * is not there.
 */

import { withLayerTypes } from '../checkpoint/index.js'
import type { Config } from './architecture.js'

/** Where a config has no `layer_types`: all layers, or, where it is switched on, those from `max_window_layers` on. */
export type Windowed = 'always' | 'switched'

/** What transformers takes for keys that are not there. */
const defaults = { sliding_window: 4096, max_window_layers: 28 }

/** Types of layers that can be run, and whether they have windows; `attention` is an old name. */
const kinds: ReadonlyMap<unknown, boolean> = new Map([
  ['full_attention', false],
  ['attention', false],
  ['sliding_attention', true],
])

/** Keys that a token of each layer sees, its own among them (0: all before it), and what cannot be run. */
export function windowsOf(
  config: Config,
  windowed: Windowed | undefined,
  depth: number,
): { windows: number[]; missing: string[] } {
  const on = windowed === 'always' || (windowed === 'switched' && config.use_sliding_window === true)
  const { sliding_window: size = defaults.sliding_window } = config
  const window = on ? Number(size ?? 0) : 0
  const { layer_types: found } = windowed === 'switched' ? withLayerTypes({ ...defaults, ...config }, depth) : config
  if (found == null) return { windows: new Array<number>(depth).fill(window), missing: [] }
  const types: unknown[] = Array.isArray(found) ? found : []
  const unknown = types.filter((type) => kinds.get(type) === undefined || (kinds.get(type) && windowed === undefined))
  const missing = [...new Set(unknown)].map((type) => `layers of the type ${type}`)
  if (types.length !== depth) missing.push(`a type in layer_types for each of its ${depth} layers`)
  const slides = types.some((type) => kinds.get(type))
  if (slides && windowed !== undefined && window === 0) missing.push('a sliding_window for its layers that have one')
  return { windows: types.map((type) => (kinds.get(type) ? window : 0)), missing }
}
