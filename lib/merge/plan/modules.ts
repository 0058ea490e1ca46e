/**
 * Views of checkpoints: the tensors of one module under names that all models share. A language model inside a vision
 * model has its names prefixed, in one of two ways (`language_model.model.layers`, `model.language_model.layers`);
 * seen through its view it looks like the language model alone (`model.layers`, `lm_head`), so the two can be merged.
 */

import { type Checkpoint, type CheckpointTensor, mainStack, stacksOf } from '../../checkpoint/index.js'
import { WeightsmithError } from '../../util/errors.js'
import type { Module } from '../recipe/index.js'

/** Starts of names in the checkpoint and in the view; the first that fits counts. */
type Rules = readonly (readonly [stored: string, seen: string])[]

export interface View extends Checkpoint {
  /** Name in the checkpoint of a tensor of the view. */
  stored(seen: string): string
  /** Key of config.json that describes the module, where it is not the language model. */
  section?: string
}

/** Names of mergekit and of transformers for the language model of a multimodal one. */
const textNames: ReadonlySet<string> = new Set(['language_model', 'text_decoder', 'text_model'])

export function viewOf(checkpoint: Checkpoint, module: Module, prefix = module.prefix): View {
  if (isWhole(checkpoint, module, prefix)) return { ...checkpoint, stored: (seen) => seen }
  const text = textNames.has(module.name)
  const rules =
    prefix !== undefined
      ? ([[prefix, '']] as const)
      : text
        ? textRules(checkpoint)
        : namedRules(checkpoint, module.name)
  const tensors = new Map<string, CheckpointTensor>()
  for (const [name, tensor] of checkpoint.tensors) {
    const seen = rename(name, rules)
    if (seen !== undefined) tensors.set(seen, tensor)
  }
  if (tensors.size === 0) {
    const sought = prefix === undefined ? '' : ` (names that start with "${prefix}")`
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_RECIPE',
      `${module.path} of the recipe should be a module of ${checkpoint.name}, but it has no such tensors${sought}; ` +
        'give prefix: for the module or the model, the start of the names of its tensors ("" for all of them).',
      { file: checkpoint.path },
    )
  }
  const stacks = stacksOf(tensors.keys())
  const stack = mainStack(stacks, undefined)
  const section = text ? undefined : sectionOf(checkpoint.config, module.name)
  const { config, stack: _, ...rest } = checkpoint
  const own = section === undefined ? (text ? config : undefined) : (config?.[section] as Record<string, unknown>)
  return {
    ...rest,
    tensors,
    stacks,
    ...(stack === undefined ? {} : { stack }),
    ...(own === undefined ? {} : { config: own }),
    ...(section === undefined ? {} : { section }),
    stored: (seen) =>
      rename(
        seen,
        rules.map(([a, b]) => [b, a] as const),
      ) ?? seen,
  }
}

/**
 * Whether the module is the model, with its layers and its config: `default` is what mergekit calls a model's only
 * module.
 */
function isWhole(checkpoint: Checkpoint, { name }: Module, prefix: string | undefined): boolean {
  return prefix === '' || (prefix === undefined && name === 'default' && namedRules(checkpoint, name).length === 0)
}

function rename(name: string, rules: Rules): string | undefined {
  const rule = rules.find(([from]) => name.startsWith(from))
  return rule && rule[1] + name.slice(rule[0].length)
}

function textRules({ tensors }: Checkpoint): Rules {
  const has = (start: string) => [...tensors.keys()].some((name) => name.startsWith(start))
  if (has('language_model.model.')) return [['language_model.', '']]
  if (has('model.language_model.')) {
    return [
      ['model.language_model.', 'model.'],
      ['lm_head.', 'lm_head.'],
    ]
  }
  if (!has('model.')) return [['', '']]
  // a language model that stands alone, or whose towers stand beside it
  return [
    ['model.', 'model.'],
    ['lm_head.', 'lm_head.'],
  ]
}

/** Where Qwen2-VL and its successors have what mergekit calls by the names of LLaVA. */
const elsewhere: Readonly<Record<string, readonly string[]>> = {
  vision_tower: ['patch_embed.', 'pos_embed.', 'blocks.'],
  multi_modal_projector: ['merger.', 'deepstack_merger_list.'],
}

function namedRules({ tensors }: Checkpoint, name: string): Rules {
  const has = (start: string) => [...tensors.keys()].some((key) => key.startsWith(start))
  const found = [`${name}.`, `model.${name}.`].find(has)
  if (found !== undefined) return [[found, '']]
  const visual = ['visual.', 'model.visual.'].find(has)
  const parts = Object.hasOwn(elsewhere, name) && visual !== undefined ? (elsewhere[name] ?? []) : []
  return parts.filter((part) => has(visual + part)).map((part) => [visual + part, part] as const)
}

function sectionOf(config: Record<string, unknown> | undefined, name: string): string | undefined {
  const kind = /vision|visual/.test(name) ? 'vision_config' : /audio/.test(name) ? 'audio_config' : `${name}_config`
  const section = config?.[kind]
  return typeof section === 'object' && section !== null && !Array.isArray(section) ? kind : undefined
}
