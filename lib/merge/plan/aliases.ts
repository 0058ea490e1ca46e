/**
 * Names of one model's tensors as another model has them. Versions and classes of transformers store the same tensors
 * under other names, and load each other's: vision models moved their parts (`language_model.model.` became
 * `model.language_model.`), and a model saved without its head lacks the first part of its names (`model.`).
 */

import { type Checkpoint, layerKey, mainStack, stacksOf } from '../../checkpoint/index.js'

/** Older names and newer ones of the parts of vision models. */
const moved: readonly (readonly [older: string, newer: string])[] = [
  ['language_model.model.', 'language_model.'],
  ['language_model.lm_head.', 'lm_head.'],
]

/** What names begin with in a model that has a head, and not in one saved without. */
const stems = /^(model|transformer|bert|roberta|distilbert|electra|gpt_neox|backbone)\./

/**
 * A name that both have for the same tensor. `beside`: a vision tower stands beside the layers of the language model
 * (Qwen2-VL).
 */
function common(name: string, beside: boolean): string {
  const rule = moved.find(([older]) => name.startsWith(older))
  if (rule !== undefined) return rule[1] + name.slice(rule[0].length)
  const stemless = name.replace(stems, '')
  return beside && /^(layers|embed_tokens|norm)\./.test(stemless) ? `language_model.${stemless}` : stemless
}

/** Tensors by such names; undefined where two have the same one. */
function byCommonName({ tensors }: Checkpoint): Map<string, string> | undefined {
  const beside = [...tensors.keys()].some((name) => /^(model\.)?visual\./.test(name))
  const names = new Map([...tensors.keys()].map((name) => [common(name, beside), name]))
  return names.size === tensors.size ? names : undefined
}

/** The checkpoint with the names of `first`, where that has other ones for the same tensors. */
export function named(checkpoint: Checkpoint, first: Checkpoint, notes: string[]): Checkpoint {
  if ([...checkpoint.tensors.keys()].every((name) => first.tensors.has(name))) return checkpoint
  const [own, wanted] = [byCommonName(checkpoint), byCommonName(first)]
  if (own === undefined || wanted === undefined) return checkpoint
  let example: string | undefined
  const entries = [...own].map(([shared, name]) => {
    const target = wanted.get(shared) ?? name
    if (target !== name) example ??= `${target} for ${name}`
    return [target, checkpoint.tensors.get(name)] as const
  })
  if (example === undefined) return checkpoint
  notes.push(`${checkpoint.name} calls its tensors otherwise than ${first.name} (${example}); they are matched.`)
  const tensors = new Map(entries.flatMap(([name, tensor]) => (tensor === undefined ? [] : [[name, tensor] as const])))
  const stacks = stacksOf(tensors.keys())
  const { config, stack: _, ...rest } = checkpoint
  const found = config && layerKey(config)
  const stack = mainStack(stacks, found && Number(found.holder[found.key]))
  return { ...rest, ...(config && { config }), tensors, stacks, ...(stack === undefined ? {} : { stack }) }
}
