/**
 * Which examples each step is trained on: a plan, from which any step can be had without those before it, so that a run
 * that goes on does not read again what it has done. All order comes from Philox by the seed alone; how a step is cut
 * depends on options, never on memory, so that sums have one order on every machine.
 */

import { packed } from '../data/index.js'
import { misuse, wrongOption } from '../util/errors.js'
import { stream } from '../util/philox.js'

/** Ids that a model is trained on. */
export interface TrainingExample {
  ids: number[]
  /** 1 where the id is to be predicted from those before it; the first id never is. */
  targets: Uint8Array
  /** For messages: `Line 3 of train.jsonl`. */
  where: string
}

/** Examples of one file, and how likely the next example is one of them. */
export interface TrainingSource {
  examples: readonly TrainingExample[]
  /** In proportion to those of the other sources. */
  share?: number | undefined
}

export interface BatchOptions {
  /** Sequences a step. */
  batch: number
  /** Most tokens that go through the model at a time. Defaults to 2,048. */
  tokens?: number | undefined
  /** How often all examples are seen, which may end within one. Defaults to 1 where `steps` says nothing. */
  epochs?: number | undefined
  steps?: number | undefined
  /** Of the order: an integer from 0 to 2^53 - 1. */
  seed: number
  /** Whether examples of a source are shuffled, anew in every pass. Defaults to true. */
  shuffle?: boolean | undefined
}

/** One update of the weights. */
export interface TrainingStep {
  /** Sequences that go through the model together, one after the other without padding. */
  microBatches: TrainingExample[][]
  /** Ids to predict in the whole step: what its loss is divided by. */
  targets: number
  tokens: number
  /** From 0. */
  epoch: number
}

export interface BatchPlan {
  steps: number
  stepsPerEpoch: number
  /** In an epoch. */
  examples: number
  /** The step of a number from 0 to `steps` - 1. */
  stepAt(step: number): TrainingStep
}

/** Tokens of a micro-batch, and the longest example that is not cut, where no option says otherwise. */
export const defaultTokens = 2048

/**
 * Steps of `batch` examples each; the last one of an epoch has what is left. Without shares, an epoch is every example
 * of all sources once. With shares it has as many examples, and each is drawn: its source by the shares, and of the
 * source the next one of a pass through all of it, which goes on in the next epoch. Throws ERR_WEIGHTSMITH_ARGUMENT for
 * an option out of its range, and for an example that no micro-batch has room for.
 */
export function planBatches(sources: readonly TrainingSource[], options: BatchOptions): BatchPlan {
  const { batch, tokens = defaultTokens, epochs, steps: wanted, seed, shuffle = true } = options
  checkCount('the batch', batch)
  checkCount('the tokens of a micro-batch', tokens)
  if (wanted !== undefined) checkCount('the steps', wanted)
  if (epochs !== undefined && !(epochs > 0 && Number.isFinite(epochs))) {
    throw wrongOption('the epochs', 'a number above 0', epochs)
  }
  if (epochs !== undefined && wanted !== undefined) {
    throw misuse(`Both ${wanted} steps and ${epochs} epochs were given; one of them says where training ends.`)
  }
  if (!(Number.isSafeInteger(seed) && seed >= 0)) throw wrongOption('the seed', 'a whole number from 0 on', seed)
  const shares = sharesOf(sources)
  const all = sources.flatMap(({ examples }) => examples)
  if (all.length === 0 || (shares !== undefined && sources.some(({ examples }) => examples.length === 0))) {
    throw misuse(`${shares === undefined ? 'There are' : 'A file of data with a share has'} no examples to train on.`)
  }
  const large = all.find(({ ids }) => ids.length > tokens)
  if (large !== undefined) {
    throw misuse(
      `${large.where} has ${large.ids.length} tokens, but a micro-batch has room for ${tokens}; cut examples at that length, or give micro-batches more tokens.`,
    )
  }
  const order =
    shares === undefined
      ? passes(all, 0, { seed, shuffle })
      : drawn(sources, { shares, length: all.length, seed, shuffle })
  const stepsPerEpoch = Math.ceil(all.length / batch)
  const steps = wanted ?? Math.ceil((epochs ?? 1) * stepsPerEpoch)
  checkCount('the steps of all epochs', steps)
  return {
    steps,
    stepsPerEpoch,
    examples: all.length,
    stepAt(step) {
      const epoch = Math.floor(step / stepsPerEpoch)
      const first = (step % stepsPerEpoch) * batch
      const count = Math.min(batch, all.length - first)
      const chosen = Array.from({ length: count }, (_, i) => order(epoch * all.length + first + i))
      return {
        microBatches: packed(chosen, { rowsOf: ({ ids }) => ids.length, limit: tokens }),
        targets: chosen.reduce((sum, { targets }) => sum + targets.reduce((a, b) => a + b, 0), 0),
        tokens: chosen.reduce((sum, { ids }) => sum + ids.length, 0),
        epoch,
      }
    },
  }
}

function checkCount(name: string, value: number): void {
  if (!(Number.isSafeInteger(value) && value > 0)) throw wrongOption(name, 'a whole number above 0', value)
}

/**
 * Shares as bounds that add up to 1; nothing where no source has one. Throws ERR_WEIGHTSMITH_ARGUMENT where some have
 * one and others do not, or one is not above 0.
 */
export function sharesOf(sources: readonly { share?: number | undefined }[]): number[] | undefined {
  const shares = sources.flatMap(({ share }) => (share === undefined ? [] : [share]))
  if (shares.length === 0) return undefined
  if (shares.length < sources.length) {
    throw misuse(`Of ${sources.length} files of data ${shares.length} have a share; all of them need one, or none.`)
  }
  const wrong = shares.find((share) => !(share > 0 && Number.isFinite(share)))
  if (wrong !== undefined) throw wrongOption('the share of a file of data', 'a number above 0', wrong)
  const total = shares.reduce((a, b) => a + b, 0)
  let sum = 0
  return shares.map((share) => {
    sum += share
    return sum / total
  })
}

interface Order {
  seed: number
  shuffle: boolean
}

/** Examples by their number in pass after pass through all of them. */
function passes(
  examples: readonly TrainingExample[],
  source: number,
  { seed, shuffle }: Order,
): (index: number) => TrainingExample {
  let current = -1
  let order: Uint32Array
  return (index) => {
    const pass = Math.floor(index / examples.length)
    if (pass !== current) {
      order = Uint32Array.from(examples, (_, i) => i)
      if (shuffle) shuffleAll(order, stream(`order of source ${source}`, seed, pass))
      current = pass
    }
    return examples[order[index % examples.length] ?? 0] as TrainingExample
  }
}

/** Fisher and Yates; of n places each is off 1 / n by 2^-32 at most. */
function shuffleAll(order: Uint32Array, word: (index: number) => number): void {
  for (let last = order.length - 1; last > 0; last--) {
    const other = Math.floor((word(last) / 2 ** 32) * (last + 1))
    const moved = order[last] ?? 0
    order[last] = order[other] ?? 0
    order[other] = moved
  }
}

/**
 * Examples by their number, each from a source that is drawn. Which one of its source it is depends on how many were
 * drawn from there before: these are counted an epoch at a time.
 */
function drawn(
  sources: readonly TrainingSource[],
  { shares, length, ...order }: Order & { shares: readonly number[]; length: number },
): (index: number) => TrainingExample {
  const lists = sources.map(({ examples }, source) => passes(examples, source, order))
  const word = stream('source', order.seed)
  /** Of every epoch that was counted: how many were drawn of each source before it. */
  const before: number[][] = [sources.map(() => 0)]
  const chosen = new Uint32Array(length)
  const numbers = new Uint32Array(length)
  let current = -1
  const count = (epoch: number) => {
    const counts = [...(before[epoch] ?? [])]
    for (let i = 0; i < length; i++) {
      const at = word(epoch * length + i) / 2 ** 32
      const source = shares.findIndex((bound) => at < bound)
      chosen[i] = source
      numbers[i] = counts[source] ?? 0
      counts[source] = (counts[source] ?? 0) + 1
    }
    before[epoch + 1] = counts
    current = epoch
  }
  return (index) => {
    const epoch = Math.floor(index / length)
    if (epoch !== current) for (let e = Math.min(epoch, before.length - 1); e <= epoch; e++) count(e)
    const i = index % length
    return (lists[chosen[i] ?? 0] as (index: number) => TrainingExample)(numbers[i] ?? 0)
  }
}
