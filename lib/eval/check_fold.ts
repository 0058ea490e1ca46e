/**
 * Whether a folded model says what its base says with the adapters: logits of both on a line of text. The weights that
 * adapters change are float32 on that side, so that what the rounding of the folded model took shows too.
 */

import { type AdaptedOptions, openWithAdapters } from '../adapters/adapted_model.js'
import { checkAdapters, type FoldOptions, type WeightedAdapter } from '../adapters/fold.js'
import type { Checkpoint } from '../checkpoint/index.js'
import { checkIds, openTokenizer } from '../data/index.js'
import type { Engine } from '../engine/engine.js'
import { fitModel } from '../runtime/memory_fit.js'
import { checkpointOf, modelOf } from '../runtime/open_model.js'
import { WeightsmithError } from '../util/errors.js'

export interface CheckFoldOptions extends Pick<FoldOptions, 'adapters' | 'untie' | 'resize' | 'signal'> {
  /** Defaults to a sentence with some figures. */
  text?: string | undefined
}

export interface FoldCheck {
  text: string
  tokens: number
  /** Norm of the difference of all logits over that of their deviations from the mean of their token. */
  difference: number
  /** Largest difference of a logit. */
  largest: number
  /** Share of the tokens for whose successor both models have the same favourite. */
  agreed: number
  /** What the difference may be at most; it follows from the type of the folded weights. */
  limit: number
}

const sentence = 'The quick brown fox jumps over the lazy dog, and 12 + 34 = 46.'

/** Rounding a weight takes up to half a step of its type; layers make more of it. Float32 runs by other kernels. */
const limits = { float32: 1e-4, float16: 0.01, bfloat16: 0.05 } as const

/**
 * Runs `model` with adapters and `folded`, what `foldAdapters` made of them, on a line of text. Throws
 * ERR_WEIGHTSMITH_VERIFY where their logits differ by more than the rounding explains, and what `foldAdapters` throws
 * of adapters.
 */
export async function checkFold(
  engine: Engine,
  model: string,
  folded: string,
  { adapters: given, untie = false, resize = false, text = sentence, signal }: CheckFoldOptions,
): Promise<FoldCheck> {
  const adapters = checkAdapters(given)
  const adapted = { model, adapters, untie, resize }
  const mine = await openAdapted(engine, adapters, { adapted, signal, dtype: 'float32' })
  const theirs = await checkpointOf(engine, folded)
  const ids = (await openTokenizer(mine)).prompt(text)
  checkIds({ spec: modelOf(engine, mine, {}).spec, checkpoint: mine }, ids, 'The text')
  const [one, two] = [await logitsOf(engine, mine, ids), await logitsOf(engine, theirs, ids)]
  const found = { text, tokens: ids.length, ...compare(one, two, ids.length), limit: limits[typeOf(theirs)] }
  // NaN is no smaller.
  if (found.difference <= found.limit) return found
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_VERIFY',
    `${folded} gives other logits than ${model} with its adapters: they differ by ${found.difference.toPrecision(3)} of their ` +
      `spread on ${ids.length} tokens, and the rounding to ${typeOf(theirs)} explains ${found.limit}; the most likely token ` +
      `is the same for ${(100 * found.agreed).toFixed(0)} %.`,
    { file: theirs.path },
  )
}

function openAdapted(
  engine: Engine,
  adapters: readonly WeightedAdapter[],
  options: AdaptedOptions,
): Promise<Checkpoint> {
  const name = [options.adapted?.model, ...adapters.map(({ adapter }) => adapter)].join('+')
  return engine.use((host) => openWithAdapters(host, name, options))
}

async function logitsOf(engine: Engine, checkpoint: Checkpoint, ids: readonly number[]): Promise<Float32Array> {
  const size = { longest: ids.length, total: ids.length, cached: false }
  const { model } = await fitModel(engine, checkpoint, size)
  try {
    const { logits = new Float32Array() } = await model.run(model.pack([ids]), { logits: true })
    return logits
  } finally {
    await model.close()
  }
}

function compare(one: Float32Array, two: Float32Array, tokens: number): Omit<FoldCheck, 'text' | 'tokens' | 'limit'> {
  const width = one.length / tokens
  let [squares, spread, largest, agreed] = [0, 0, 0, 0]
  for (let token = 0; token < tokens; token++) {
    const [mine, theirs] = [one, two].map((all) => all.subarray(token * width, (token + 1) * width))
    if (mine === undefined || theirs === undefined || theirs.length !== width) break
    const mean = mine.reduce((sum, value) => sum + value, 0) / width
    let [first, second] = [0, 0]
    for (let i = 0; i < width; i++) {
      const [x = 0, y = 0] = [mine[i], theirs[i]]
      squares += (y - x) ** 2
      spread += (x - mean) ** 2
      largest = Math.max(largest, Math.abs(y - x))
      if (x > (mine[first] ?? 0)) first = i
      if (y > (theirs[second] ?? 0)) second = i
    }
    if (first === second) agreed++
  }
  const difference = squares === 0 ? 0 : Math.sqrt(squares / spread)
  return {
    difference: one.length === two.length ? difference : Number.POSITIVE_INFINITY,
    largest,
    agreed: agreed / tokens,
  }
}

/** The coarsest type among the weights. */
function typeOf({ tensors }: Checkpoint): keyof typeof limits {
  const types = new Set([...tensors.values()].map(({ dtype }) => dtype))
  return types.has('BF16') ? 'bfloat16' : types.has('F16') ? 'float16' : 'float32'
}
