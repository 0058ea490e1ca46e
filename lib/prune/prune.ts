/** `prune`: a checkpoint without its least important weights, heads and neurons, or blocks. */

import { checkOutput } from '../checkpoint/index.js'
import { layOutRewrite, type Rewritten, rewrite } from '../checkpoint/rewrite.js'
import type { Engine } from '../engine/engine.js'
import { checkpointOf, modelOf } from '../runtime/open_model.js'
import { readScores } from '../score/index.js'
import type { DryRun } from '../util/dry_run.js'
import type { ProgressEvent } from '../util/progress.js'
import {
  argument,
  type Choice,
  type Decision,
  elementsOf,
  needScores,
  type PruneMethod,
  pruneBlocks,
  pruneMethods,
  pruneWeights,
  pruneWidths,
} from './index.js'

export { type PruneMethod, pruneMethods } from './index.js'

export interface PruneOptions extends Choice {
  /** Folder of the result. */
  out: string
  overwrite?: boolean | undefined
  /** Go on with what an earlier run of the same model, scores and options has left; where there is nothing, begin. */
  resume?: boolean | undefined
  /**
   * Bytes written between two notes that `resume` goes on from; smaller outputs are begun again. Defaults to 256 MiB.
   */
  journalEvery?: number | string | undefined
  /** Check everything and decide what goes, but write nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Heads and neurons with their scores, before anything is written; in the order of the report's `units`. */
  onUnits?: ((units: NonNullable<Decision['scored']>) => void) | undefined
  /** Bytes written, of all. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface PruneForecast extends Pick<Decision, 'about' | 'units' | 'blocks' | 'blockScores' | 'notes'> {
  model: string
  /** The folder of the result. */
  out: string
  method: PruneMethod
  layout: 'masked' | 'compact'
  parameters: { before: number /** That are not pruned. */; after: number }
  /** Of the files of weights, with what an earlier run had written of them. */
  bytesWritten: number
  device: string
}

export interface PruneReport extends PruneForecast, Rewritten {
  milliseconds: number
}

/**
 * Writes the pruned checkpoint. Throws ERR_WEIGHTSMITH_INPUT_CHANGED for scores of another model,
 * ERR_WEIGHTSMITH_MISSING_TENSOR for scores that the method needs and the file has not, ERR_WEIGHTSMITH_ARGUMENT where
 * a layer would be empty or the model has no place for the result. A dry run decides what would be removed.
 */
export function prune(
  engine: Engine,
  path: string,
  options: PruneOptions & { dryRun: true },
): Promise<DryRun<PruneForecast>>
export function prune(
  engine: Engine,
  path: string,
  options: PruneOptions & { dryRun?: false | undefined },
): Promise<PruneReport>
export function prune(engine: Engine, path: string, options: PruneOptions): Promise<PruneReport | DryRun<PruneForecast>>
export async function prune(
  engine: Engine,
  path: string,
  options: PruneOptions,
): Promise<PruneReport | DryRun<PruneForecast>> {
  const begin = performance.now()
  const {
    out,
    overwrite,
    resume = false,
    journalEvery = 2 ** 28,
    dryRun = false,
    signal,
    onProgress,
    onUnits,
    ...choice
  } = options
  const { method, layout = 'masked' } = choice
  const kind = checkChoice(choice)
  const checkpoint = await checkpointOf(engine, path)
  const { spec } = modelOf(engine, checkpoint, { batchTokens: 1 })
  const target = await checkOutput(out, [checkpoint], { overwrite, resume })
  return engine.use(async (host) => {
    const scores = choice.scores === undefined ? undefined : await readScores(host.addon, choice.scores, checkpoint)
    const subject = { host, checkpoint, spec, scores }
    const decide = { weights: pruneWeights, widths: pruneWidths, blocks: pruneBlocks }[kind]
    const decision = await decide(subject, choice)
    const { tensors, config, removed, about, units, scored, blocks, blockScores, notes } = decision
    if (scored) onUnits?.(scored)
    const before = [...checkpoint.tensors.values()].reduce((sum, { shape }) => sum + elementsOf(shape), 0)
    const report = {
      ...{ model: path, out: target, method, layout, about },
      parameters: { before, after: before - removed },
      ...(units && { units }),
      ...(blocks && { blocks, blockScores }),
      notes,
      device: engine.device.name,
    }
    if (dryRun) {
      return { forecast: { ...report, bytesWritten: layOutRewrite(checkpoint, { tensors }).layout.bytes } }
    }
    const written = await rewrite(host, checkpoint, {
      ...{ out, tensors, config, overwrite, resume, journalEvery, signal, onProgress },
      recipe: { prune: { ...choice, ...(scores && { scored: scores.info }) } },
      about: [about, ...notes].join(' '),
      reads: scores && [scores.file],
    })
    return { ...report, ...written, milliseconds: performance.now() - begin }
  })
}

/** What goes by the method. */
function checkChoice(choice: Choice): 'weights' | 'widths' | 'blocks' {
  const { method, layout = 'masked', allocation = 'global', keepRatio = 1 } = choice
  if (!Object.hasOwn(pruneMethods, method)) {
    throw argument(`A method of pruning is one of ${Object.keys(pruneMethods).join(', ')}, but "${method}" was found.`)
  }
  const kind = pruneMethods[method].goes
  for (const [name, those] of Object.entries(belongs) as [keyof typeof belongs, readonly string[]][]) {
    if (choice[name] === undefined || those.includes(kind) || those.includes(method)) continue
    throw argument(`The option ${name} is not one of ${method}; it belongs to ${methodsOf(those).join(', ')}.`)
  }
  needScores(choice)
  if (!['masked', 'compact'].includes(layout)) throw argument(`The layout is masked or compact, not "${layout}".`)
  if (!['global', 'uniform'].includes(allocation))
    throw argument(`Expected allocation to be global or uniform, but received "${allocation}".`)
  if (!(keepRatio > 0 && keepRatio <= 1))
    throw argument(`Expected keepRatio to be above 0 and at most 1, but received ${keepRatio}.`)
  if (kind === 'weights' && layout === 'compact') {
    throw argument('Single weights become zeros; only heads, neurons and blocks can be left out (--layout compact).')
  }
  return kind
}

/** Options by what goes, or by the methods that they are of. */
const belongs = {
  sparsity: ['weights'],
  pattern: ['weights'],
  keepRatio: ['widths'],
  allocation: ['widths'],
  metric: ['flap'],
  bias: ['flap', 'wanda-sp'],
  remove: ['blocks'],
  positions: ['ablation'],
} as const

function methodsOf(those: readonly string[]): string[] {
  return Object.entries(pruneMethods).flatMap(([method, { goes }]) =>
    those.includes(goes) || those.includes(method) ? [method] : [],
  )
}
