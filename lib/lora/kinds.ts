/**
 * What adapters may be, and what folding makes of it. What opens adapters looks here: a key of a config that is not in
 * these tables, and not one that leaves weights alone, is refused by its name. docs/lora.md is written from them.
 */

import type { Start } from './adapter.js'

/** Keys of PEFT's config that say what the factors mean: what becomes of a weight where they are set. */
export const takenFields = {
  fan_in_fan_out: 'weights are stored as [in, out], and get the transpose of B A',
  lora_bias: 'the bias of B, times the scale, is added to that of the module',
  use_dora: 'rows of W + s (B A) get the lengths of the adapter; its weight can be 1 alone',
  use_rslora: 's is alpha / √r, not alpha / r',
  alpha_pattern: 'the alpha of a module, by the first regular expression that matches the end of its name',
  modules_to_save: 'whole modules replace those of the model; the weight can be 1 alone',
  rank_pattern: 'the rank of a module, in the same way',
  trainable_token_indices: 'rows of a table of tokens replace those of the model; the weight can be 1 alone',
  target_parameters:
    'each expert gets its part of W + s (B A), also where the model stores experts one by one; square experts are refused ' +
    'where neither the model nor the version of PEFT says how they lie',
} as const

/** What `bias` may be. */
export const biases: Readonly<Record<string, string>> = {
  none: 'biases stay as they are',
  all: 'all biases of the model are replaced; the weight can be 1 alone',
  lora_only: 'biases of adapted modules are replaced; the weight can be 1 alone',
}

/** What `init_lora_weights` may be, in small letters. */
export const starts: Readonly<Record<string, { start?: Start; about: string }>> = {
  true: { about: 'the base model stayed as it was' },
  false: { about: 'the same' },
  gaussian: { about: 'the same' },
  eva: { about: 'the same' },
  orthogonal: { about: 'the same' },
  mica: { about: 'the same' },
  pissa: {
    start: 'pissa',
    about: 'W - s (B₀ A₀) + s (B A): the leading part of the SVD of the model that it was trained on, in float64',
  },
  olora: { start: 'olora', about: 'the same, with the leading part of the QR factorisation' },
}

/** Of all other starts, such as `corda`, `loftq`, `lora_ga` and `pissa_niter_4`; it goes on after "… is …, ". */
export const otherStart =
  'which changes the base model too, in a way that its files do not say (PEFT converts such adapters to plain ones with ' +
  'path_initial_model_for_weight_conversion)'

/** What other keys do that may be set; the sentence goes on after "it sets …, ". */
export const refusedFields: Readonly<Record<string, string>> = {
  alora_invocation_tokens: 'so it holds behind some tokens only, which no weights can say',
  arrow_config: 'so it is chosen token by token, which no weights can say',
  kasa_config: 'which changes the base model too',
  layer_replication: 'which repeats layers of the base model',
  use_qalora: 'so its A takes means of groups of inputs',
}

/** Of keys that are not known. */
export const otherField = 'which may mean something else than W + s (B A)'

/** What other types of adapters are; the sentence goes on after "its peft_type is …, ". */
export const refusedTypes: Readonly<Record<string, string>> = {
  ADALORA: 'whose ranks are cut while it is trained; save it as LoRA with the trainer first',
  IA3: 'which scales activations',
  LOHA: 'a product of products; convert it to LoRA first',
  LOKR: 'a Kronecker product; convert it to LoRA first',
  OFT: 'which turns weights',
  XLORA: 'a mixture that is chosen token by token, which no weights can say',
}

/** What `fine_tune_type` of mlx-lm may be. */
export const mlxTypes = {
  lora: 'W + s (B A), with A and B turned and the scale as it is',
  dora: 'the same with lengths of rows; the weight can be 1 alone',
  full: 'whole weights replace those of the model; the weight can be 1 alone',
} as const

/** Adapters of other programs, by how their tensors end. */
export const otherPrograms: readonly [ending: RegExp, program: string][] = [
  [/\.lora_(down|up)\.weight$|\.lora\.(down|up)\.weight$/, "kohya's scripts (lora_down, lora_up)"],
  [/\.hada_w1_[ab]$/, 'LyCORIS (LoHa)'],
  [/\.lokr_w[12]/, 'LyCORIS (LoKr)'],
]

/** What is to be done with these. */
export const otherProgram =
  "whose names do not say which modules of a model they mean; convert it to PEFT's layout with the program that made it"
