/** The checkpoint without the chosen neurons, with the list of them beside its weights. */

import { join } from 'node:path'
import { withWidths } from '../../architectures/index.js'
import { type Content, type Cut, checkOutput, cutTensor } from '../../checkpoint/index.js'
import { rewrite } from '../../checkpoint/rewrite.js'
import { modelOf } from '../../runtime/open_model.js'
import type { WeightsmithError } from '../../util/errors.js'
import { misuse } from '../../util/errors.js'
import type { Choice } from './choose.js'
import { cutsOf, type Neurons, type Subject } from './subject.js'

/** Refuses what could not be written in the end, before anything is measured. */
export async function checkTargets({ checkpoint, settings, path }: Subject): Promise<void> {
  const { out, overwrite, alphas, maxRetainDrop, compact } = settings
  if (compact && withWidths(checkpoint.config ?? {}, [], 0) === undefined) throw noWidths(path)
  if (out === undefined) return
  const several = alphas.length > 1 && maxRetainDrop === undefined
  for (const target of several ? alphas.map((alpha) => folderOf(out, alpha)) : [out]) {
    await checkOutput(target, [checkpoint], { overwrite })
  }
}

const folderOf = (out: string, alpha: number) => join(out, `alpha=${alpha}`)

function noWidths(path: string): WeightsmithError {
  return misuse(`The config of ${path} has no keys for other widths; leave the neurons as zeros, without compact.`)
}

/** Writes those choices that are to be written, and says where. */
export async function write(
  subject: Subject,
  choices: Choice[],
  allowedAlpha: number | null | undefined,
): Promise<void> {
  const { engine, checkpoint, settings } = subject
  const { out, overwrite, signal, seed, mode, layers, weights, iterations, forget, retain, compact } = settings
  if (out === undefined) return
  const several = choices.length > 1 && allowedAlpha === undefined
  for (const choice of choices) {
    if (allowedAlpha !== undefined && choice.alpha !== allowedAlpha) continue
    const { alpha, neurons, selected, towers } = choice
    const tensors = new Map<string, Content>()
    for (const [name, cut] of compact ? keptOf(selected) : cutsOf(selected)) {
      const tensor = checkpoint.tensors.get(name)
      if (tensor !== undefined) tensors.set(name, cutTensor(checkpoint, tensor, cut))
    }
    const config = compact ? narrowed(subject, selected) : undefined
    const list = { mode, alpha, layers, weights, towers, neurons }
    const written = await engine.use((host) =>
      rewrite(host, checkpoint, {
        ...{ out: several ? folderOf(out, alpha) : out, tensors, config, seed, overwrite, signal },
        recipe: { manu: { model: checkpoint.name, mode, alpha, layers, weights, iterations, forget, retain } },
        about:
          `${neurons.length} neurons of its MLPs were ${compact ? 'taken out' : 'set to zero'} by modality-aware neuron ` +
          'unlearning (arXiv 2502.15910); neurons.json lists them with their scores.',
        files: [{ name: 'neurons.json', data: `${JSON.stringify(list)}\n` }],
      }),
    )
    choice.out = written.out
  }
}

/** What stays of tensors whose neurons are left out; those of towers become zeros. */
function keptOf(neurons: Neurons): ReadonlyMap<string, Cut> {
  const cuts = new Map(cutsOf(new Map([...neurons].filter(([{ tower }]) => tower === 'vision'))))
  for (const [module, chosen] of neurons) {
    if (module.tower === 'vision') continue
    const gone = new Set(chosen)
    const kept = Array.from({ length: module.neurons }, (_, n) => n).filter((n) => !gone.has(n))
    for (const name of module.rows) cuts.set(name, { rows: kept })
    for (const name of module.columns) cuts.set(name, { columns: kept })
  }
  return cuts
}

/** The config of a language model without some neurons. */
function narrowed({ engine, checkpoint, path }: Subject, selected: Neurons): Record<string, unknown> {
  const { language } = modelOf(engine, checkpoint, { batchTokens: 1 }).spec
  const { heads, numKvHeads, headSize } = language.attention
  const widths = language.layers.map(({ units }, layer) => {
    const count = (kind: string) => units.find((own) => own.kind === kind)?.count ?? 0
    const gone = [...selected].find(([module]) => module.tower === 'language' && module.layer === layer)?.[1] ?? []
    return {
      heads: (count('group') * heads) / numKvHeads,
      groups: count('group'),
      inner: count('neuron') - gone.length,
    }
  })
  const config = withWidths(checkpoint.config ?? {}, widths, headSize)
  if (config !== undefined) return config
  throw noWidths(path)
}
