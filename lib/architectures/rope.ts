/**
 * Angles of rotary embeddings from a config: plain, and with linear, dynamic (NTK), llama3 and yarn scaling, as
 * modeling_rope_utils of transformers defines them.
 */

import type { Rotary } from '../runtime/ops/index.js'
import type { Config } from './architecture.js'

export interface RotaryOf {
  /** Most tokens of a sequence. */
  context: number
  /** Gives the same object for lengths that have the same angles. */
  angles: (length: number) => Rotary
}

const scalingOf = (config: Config) => (config.rope_parameters ?? config.rope_scaling ?? {}) as Config

/** Undefined for a kind of scaling that is not known. `positions`: max_position_embeddings. */
export function rotaryOf(config: Config, size: number, positions: number): RotaryOf | undefined {
  const scaling = scalingOf(config)
  const theta = Number(scaling.rope_theta ?? config.rope_theta ?? 10000)
  const factor = Number(scaling.factor)
  const plain = frequenciesOf(theta, size)
  const fixed = (frequencies: Float64Array, magnitude = 1, context = positions): RotaryOf => {
    const rotary = { frequencies, factor: magnitude }
    return { context, angles: () => rotary }
  }
  switch (ropeKind(config)) {
    case 'default':
      return fixed(plain)
    case 'linear':
      return fixed(plain.map((frequency) => frequency / factor))
    case 'llama3':
      return fixed(plain.map((frequency) => llama3(frequency, scaling)))
    case 'yarn': {
      const trained = Number(scaling.original_max_position_embeddings ?? positions)
      const stretch = Number(scaling.factor ?? positions / trained)
      const context = Math.max(positions, Math.floor(trained * stretch))
      return fixed(yarn(plain, theta, { ...scaling, factor: stretch }, trained), yarnFactor(stretch, scaling), context)
    }
    case 'dynamic':
      return dynamic(theta, size, factor, positions)
    default:
      return undefined
  }
}

/** How a message calls what is not known. */
export function ropeKind(config: Config): string {
  const scaling = scalingOf(config)
  const partial = Number(scaling.partial_rotary_factor ?? config.partial_rotary_factor ?? 1)
  if (partial !== 1) return `default for ${partial} of a head`
  return String(scaling.rope_type ?? scaling.type ?? 'default')
}

function frequenciesOf(theta: number, size: number): Float64Array {
  return Float64Array.from({ length: size / 2 }, (_, i) => theta ** ((-2 * i) / size))
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

/**
 * Pairs that turn more than `beta_fast` times within the trained length are kept, those below `beta_slow` stretched.
 */
function yarn(plain: Float64Array, theta: number, scaling: Config, trained: number): Float64Array {
  const size = 2 * plain.length
  const truncate = scaling.truncate !== false
  const pairAt = (turns: number) => (size * Math.log(trained / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  const from = pairAt(Number(scaling.beta_fast || 32))
  const to = pairAt(Number(scaling.beta_slow || 1))
  const low = Math.max(truncate ? Math.floor(from) : from, 0)
  const high = Math.min(truncate ? Math.ceil(to) : to, size - 1)
  const width = high === low ? 0.001 : high - low
  return plain.map((frequency, i) => {
    const stretched = Math.min(1, Math.max(0, (i - low) / width))
    return (frequency / Number(scaling.factor)) * stretched + frequency * (1 - stretched)
  })
}

function yarnFactor(factor: number, scaling: Config): number {
  if (typeof scaling.attention_factor === 'number') return scaling.attention_factor
  const magnitude = (scale: number) => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1)
  const { mscale, mscale_all_dim: all } = scaling
  return mscale && all ? magnitude(Number(mscale)) / magnitude(Number(all)) : magnitude(1)
}

/** Plain up to the trained length; a pass whose longest sequence is longer has a larger base. */
function dynamic(theta: number, size: number, factor: number, positions: number): RotaryOf {
  const known = new Map<number, Rotary>()
  return {
    context: Math.floor(positions * factor),
    angles: (asked) => {
      const length = Math.max(asked, positions)
      const base = theta * ((factor * length) / positions - (factor - 1)) ** (size / (size - 2))
      const rotary = known.get(length) ?? { frequencies: frequenciesOf(base, size), factor: 1 }
      known.set(length, rotary)
      return rotary
    },
  }
}
