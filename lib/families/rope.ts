/** Angles of rotary embeddings from a config: plain, linear and llama3 scaling, as transformers defines them. */

import type { Config } from './family.js'

/** Inverse frequencies for `size / 2` pairs; undefined for a kind of scaling that is not known. */
export function rotaryFrequencies(config: Config, size: number): Float64Array | undefined {
  const scaling = (config.rope_parameters ?? config.rope_scaling ?? {}) as Config
  const theta = Number(scaling.rope_theta ?? config.rope_theta ?? 10000)
  const plain = Float64Array.from({ length: size / 2 }, (_, i) => theta ** ((-2 * i) / size))
  switch (ropeKind(config)) {
    case 'default':
      return plain
    case 'linear':
      return plain.map((frequency) => frequency / Number(scaling.factor))
    case 'llama3':
      return plain.map((frequency) => llama3(frequency, scaling))
    default:
      return undefined
  }
}

export function ropeKind(config: Config): string {
  const scaling = (config.rope_parameters ?? config.rope_scaling ?? {}) as Config
  return String(scaling.rope_type ?? scaling.type ?? 'default')
}

/** Long waves are stretched by the factor, short ones kept, those between interpolated. */
function llama3(frequency: number, scaling: Config): number {
  const factor = Number(scaling.factor)
  const low = Number(scaling.low_freq_factor)
  const high = Number(scaling.high_freq_factor)
  const waves = (Number(scaling.original_max_position_embeddings) * frequency) / (2 * Math.PI)
  if (waves < low) return frequency / factor
  if (waves > high) return frequency
  const share = (waves - low) / (high - low)
  return ((1 - share) * frequency) / factor + share * frequency
}
