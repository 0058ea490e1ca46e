/**
 * A mixture of LoRA experts at fixed gates g, as one adapter. There are two readings (AmoebaLLM's code and its paper):
 * the gates weight A and B, so that the update is Σᵢⱼ gᵢ gⱼ Bᵢ Aⱼ with every B times every A, or they weight what each
 * expert gives, Σ gᵢ Bᵢ Aᵢ.
 */

import type { Engine } from '../engine/engine.js'
import type { Host } from '../native/host.js'
import type { DryRun } from '../util/dry_run.js'
import { misuse } from '../util/errors.js'
import { plural } from '../util/plural.js'
import {
  type AdapterForecast,
  type AdapterOptions,
  type AdapterReport,
  concatenated,
  makeAdapter,
  ranksOf,
  recipeOf,
  shared,
} from './combine.js'
import { weightedSum } from './device.js'
import { type Factors, readFactors } from './factors.js'
import type { JoinedModule } from './union.js'

export const mixReadings = ['factor', 'output'] as const

export interface MixOptions extends AdapterOptions {
  /** One an adapter, from 0; a router's add up to 1. An adapter whose gate is 0 is left out. */
  gates: readonly number[]
  /** `factor`: gates weight A and B, which have to have equal ranks and scales; `output`: B A. Defaults to `factor`. */
  mix?: (typeof mixReadings)[number] | undefined
}

/** Mixes adapters into one. Rejects as `combineAdapters` does. */
export function mixAdapters(
  engine: Engine,
  adapters: readonly string[],
  options: MixOptions & { dryRun: true },
): Promise<DryRun<AdapterForecast>>
export function mixAdapters(
  engine: Engine,
  adapters: readonly string[],
  options: MixOptions & { dryRun?: false | undefined },
): Promise<AdapterReport>
export function mixAdapters(
  engine: Engine,
  adapters: readonly string[],
  options: MixOptions,
): Promise<AdapterReport | DryRun<AdapterForecast>>
export async function mixAdapters(
  engine: Engine,
  adapters: readonly string[],
  options: MixOptions,
): Promise<AdapterReport | DryRun<AdapterForecast>> {
  const { gates, mix = 'factor' } = options
  if (!mixReadings.includes(mix)) throw misuse(`There is no mixture "${mix}"; there are ${mixReadings.join(' and ')}.`)
  if (gates.length !== adapters.length) {
    throw misuse(`There are ${plural(adapters.length, 'adapter')}, but ${plural(gates.length, 'gate')}.`)
  }
  const wrong = gates.find((gate) => !(Number.isFinite(gate) && gate >= 0))
  if (wrong !== undefined) throw misuse(`A gate is ${wrong}, but gates are from 0.`)
  const weighted = adapters.map((adapter, i) => ({ adapter, weight: gates[i] ?? 0 }))
  const made = await makeAdapter(engine, weighted, options, {
    recipe: { mix: { adapters, ...recipeOf(options) } },
    about: `It mixes ${plural(adapters.length, 'adapter')} by fixed gates.`,
    method: `mix (${mix})`,
    each: mix === 'output' ? concatenated : factorMixed,
    upper: mix === 'output' ? ranksOf : (module) => mixable(module).rank,
  })
  const sum = gates.reduce((a, b) => a + b, 0)
  const { notes } = 'forecast' in made ? made.forecast : made
  if (Math.abs(sum - 1) > 1e-3)
    notes.push(`The gates add up to ${Number(sum.toPrecision(6))}; those of a router add up to 1.`)
  return made
}

/** The rank and scale that all adapters have in a module; throws ERR_WEIGHTSMITH_ARGUMENT where they differ. */
function mixable(module: JoinedModule): { rank: number; scale: number } {
  const { terms } = module
  const scale = terms[0]?.matrix.scale ?? 1
  const other = terms.find(({ matrix }) => matrix.scale !== scale)
  if (other === undefined) return { rank: shared(module), scale }
  throw misuse(
    `The adapters have the scales ${scale} and ${other.matrix.scale} in ${module.module}, and gates can weight A and B ` +
      'only where scales are equal; take the mixture "output".',
    { tensor: other.matrix.a.name },
  )
}

/** Σ gᵢ Aᵢ times the scale, and Σ gᵢ Bᵢ. */
function factorMixed(host: Host, module: JoinedModule, signal: AbortSignal | undefined) {
  const { rank, scale } = mixable(module)
  const { terms } = module
  const later = async (): Promise<Factors> => {
    const read: Factors[] = []
    for (const { checkpoint, matrix } of terms) read.push(await readFactors(host, checkpoint, matrix, { signal }))
    const gates = terms.map(({ weight }) => weight)
    const sum = (of: 'a' | 'b', factor: number) => {
      const values = read.map((own) => own[of])
      return weightedSum(
        host,
        values,
        gates.map((gate) => gate * factor),
        signal,
      )
    }
    return { a: await sum('a', scale), b: await sum('b', 1) }
  }
  return { rank, later }
}
