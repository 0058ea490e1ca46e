/**
 * Generation: sequences grow by one id a pass, many together. Where one ends, the next prompt takes its rows of the
 * cache, so that passes stay full. Samples of a prompt copy the rows of one that has been through the model. What a
 * sequence says does not depend on which others are beside it.
 */

import type { ForwardOptions, PackedToken } from '../runtime/forward_pass.js'
import type { SamplingParams } from '../runtime/kernels.js'
import type { Model } from '../runtime/model.js'
import type { TokenSequence } from '../runtime/pack.js'
import { WeightsmithError } from '../util/errors.js'

export interface SamplingOptions extends Pick<SamplingParams, 'temperature' | 'topK' | 'topP' | 'seed'> {
  /** Continuations of each prompt. */
  samples: number
}

export interface GenerateIdsOptions {
  /** Most tokens of a continuation. */
  maxTokens: number
  /** Ids of tokens that end a continuation; they are not part of it. */
  eosTokenIds: ReadonlySet<number>
  /** Without it, every continuation is the likeliest id after id. */
  sampling?: SamplingOptions | undefined
  /** Called with the ids of a continuation after each of them; true ends it. */
  stop?: ((ids: readonly number[], at: SampleIndex) => boolean) | undefined
  /** Called with every continuation that is finished. */
  onEnd?: ((continuation: Continuation, at: SampleIndex) => void) | undefined
  /** Called before every pass; what it throws ends the work. */
  check?: (() => void) | undefined
  /** Called after every pass with the ids that were said so far, of all continuations. */
  onPass?: ((ids: number) => void) | undefined
}

export interface SampleIndex {
  prompt: number
  sample: number
}

export interface Continuation {
  ids: number[]
  /** Whether it came to an end, or was stopped, within the most it could have. */
  ended: boolean
}

interface Growing extends Continuation {
  at: SampleIndex
  tokens: readonly PackedToken[]
  /** Its rows of the cache. */
  start: number
  rows: number
  /** Most ids it has room for. */
  most: number
}

/** Rows of the cache that are free, in stretches. */
class Rows {
  private free: { start: number; rows: number }[]

  constructor(rows: number) {
    this.free = [{ start: 0, rows }]
  }

  take(rows: number): number | undefined {
    const found = this.free.find((stretch) => stretch.rows >= rows)
    if (found === undefined) return undefined
    const { start } = found
    found.start += rows
    found.rows -= rows
    return start
  }

  give(start: number, rows: number): void {
    const all = [...this.free, { start, rows }].filter((stretch) => stretch.rows > 0).sort((a, b) => a.start - b.start)
    this.free = []
    for (const stretch of all) {
      const last = this.free.at(-1)
      if (last !== undefined && last.start + last.rows === stretch.start) last.rows += stretch.rows
      else this.free.push(stretch)
    }
  }
}

/**
 * Continuations of each prompt, as many as samples are asked for, in the order of the prompts. The model's cache has to
 * hold the longest prompt and its continuation. Throws ERR_WEIGHTSMITH_ARGUMENT for a prompt that the model cannot
 * take.
 */
export async function generateIds(
  model: Model,
  prompts: readonly TokenSequence[],
  { maxTokens, eosTokenIds, sampling, stop, onEnd, check, onPass }: GenerateIdsOptions,
): Promise<Continuation[]> {
  const samples = sampling?.samples ?? 1
  const packed = prompts.map((prompt) => model.pack([prompt]))
  const longest = packed.reduce((longest, tokens) => Math.max(longest, tokens.length), 0)
  if (longest + maxTokens > model.cache) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `A prompt of ${longest} tokens and ${maxTokens} after it need as many rows of a cache, but it has ${model.cache}.`,
    )
  }
  const results: Continuation[] = []
  // Where weights are read from files again and again, all that the cache has room for goes through a part at a time.
  const room = (await model.stays()) ? model.batchTokens : Number.POSITIVE_INFINITY
  let said = 0
  const rows = new Rows(model.cache)
  let growing: Growing[] = []
  let next = 0
  /** Samples of a prompt whose first one has to go through the model before them. */
  let deferred: SampleIndex[] = []

  /** The next sequences, as far as there is room for them beside those that grow. */
  const begin = () => {
    const begun: Growing[] = []
    const copies: { from: number; to: number }[] = []
    const known = new Map(growing.map((one) => [one.at.prompt, one]))
    const fresh = new Set<number>()
    const later: SampleIndex[] = []
    let left = room - growing.length
    /** Whether there was room, or it can wait for a sample that has just begun. */
    const take = (at: SampleIndex): boolean => {
      const tokens = packed[at.prompt] ?? []
      const first = known.get(at.prompt)
      if (first === undefined && fresh.has(at.prompt)) {
        later.push(at)
        return true
      }
      const cost = first === undefined ? tokens.length : 1
      // A pass that nothing else is in takes it, or the model refuses it.
      if (cost > left && growing.length + begun.length > 0) return false
      const mostOwn = Math.min(maxTokens, Math.max(1, model.spec.context - tokens.length))
      const start = rows.take(tokens.length + mostOwn)
      if (start === undefined) return false
      const one = { ids: [], ended: false, at, tokens, start, rows: tokens.length + mostOwn, most: mostOwn }
      results[at.prompt * samples + at.sample] = one
      left -= cost
      begun.push(one)
      if (first === undefined) fresh.add(at.prompt)
      else for (let i = 0; i < tokens.length - 1; i++) copies.push({ from: first.start + i, to: start + i })
      return true
    }
    const again = deferred
    const refused = again.findIndex((at) => !take(at))
    if (refused >= 0) later.push(...again.slice(refused))
    while (refused < 0 && next < packed.length * samples) {
      if (!take({ prompt: Math.floor(next / samples), sample: next % samples })) break
      next++
    }
    deferred = later
    return { begun, copies, fresh: begun.filter(({ at }) => !known.has(at.prompt)) }
  }

  /** The token that says the next id of a sequence. */
  const last = ({ at, ids, tokens, start }: Growing): PackedToken => {
    const row = start + tokens.length - 1 + ids.length
    const params = sampling && {
      ...sampling,
      sequence: at.prompt,
      sample: at.sample,
      step: ids.length,
    }
    const { target: _, ...prompted } = tokens.at(-1) ?? { id: 0 }
    const said = ids.length === 0 ? prompted : { id: ids.at(-1) ?? 0 }
    return { ...said, start, row, sampling: params }
  }

  for (;;) {
    check?.()
    const { begun, copies, fresh } = begin()
    growing.push(...begun)
    if (growing.length === 0) break
    const asked = growing.map(last)
    const rest = fresh.flatMap(({ tokens, start }) =>
      tokens.slice(0, -1).map(({ target: _, ...token }, i) => ({ ...token, start, row: start + i })),
    )
    const passes =
      asked.length + rest.length <= model.batchTokens
        ? [{ tokens: [...asked, ...rest], wanted: { outputs: asked.length, copies } }]
        : passesOf(rest, asked, copies, model.batchTokens)
    const best = (await model.runAll(passes, { check })).flatMap((pass) => [...pass.best])
    said += asked.length
    onPass?.(said)
    const still: Growing[] = []
    for (const [i, one] of growing.entries()) {
      const id = best[i] ?? 0
      one.ended = eosTokenIds.has(id)
      if (!one.ended) {
        one.ids.push(id)
        one.ended = stop?.(one.ids, one.at) ?? false
      }
      if (!one.ended && one.ids.length < one.most) {
        still.push(one)
        continue
      }
      rows.give(one.start, one.rows)
      onEnd?.(continuationOf(one), one.at)
    }
    growing = still
  }
  return results.map(continuationOf)
}

/** Prompts fill the cache first, then what is asked; rows are copied before any of it. */
function passesOf(
  rest: readonly PackedToken[],
  asked: readonly PackedToken[],
  copies: NonNullable<ForwardOptions['copies']>,
  most: number,
): { tokens: readonly PackedToken[]; wanted: ForwardOptions }[] {
  const cut = (tokens: readonly PackedToken[], wanted: (count: number) => ForwardOptions) =>
    Array.from({ length: Math.ceil(tokens.length / most) }, (_, i) => {
      const part = tokens.slice(i * most, (i + 1) * most)
      return { tokens: part, wanted: wanted(part.length) }
    })
  const passes = [...cut(rest, () => ({ outputs: 0 })), ...cut(asked, (outputs) => ({ outputs }))]
  return passes.map((pass, i) => (i === 0 ? { ...pass, wanted: { ...pass.wanted, copies } } : pass))
}

function continuationOf({ ids, ended }: Continuation): Continuation {
  return { ids, ended }
}
