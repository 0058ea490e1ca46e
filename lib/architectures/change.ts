/** What a config says after a model was pruned: other widths, the same in all layers or a layer each, and biases. */

import type { Config } from './architecture.js'

/** Query heads, KV heads and neurons of a layer. */
export interface Widths {
  heads: number
  groups: number
  inner: number
}

type Mutable = Record<string, unknown>

/** The part that describes the language model, in a copy. */
function copyOf(config: Config): { all: Mutable; text: Mutable } {
  const all = structuredClone(config) as Mutable
  const inner = all.text_config
  return { all, text: typeof inner === 'object' && inner !== null ? (inner as Mutable) : all }
}

/** Names of what a config of LLaMA's kind says of its widths; nothing for other architectures. */
function isLlama({ all, text }: { all: Mutable; text: Mutable }): boolean {
  return typeof text.intermediate_size === 'number' || all !== text
}

/**
 * The config with these widths, a layer each. Where they differ between layers, the usual keys have the widest, and
 * `per_layer_config` (a key of transformers: by number of the layer, what differs) has the others. Nothing where the
 * architecture has no keys for them.
 */
export function withWidths(config: Config, widths: readonly Widths[], headSize: number): Mutable | undefined {
  const copy = copyOf(config)
  if (!isLlama(copy)) return undefined
  const most = (key: keyof Widths) => widths.reduce((found, layer) => Math.max(found, layer[key]), 0)
  const shapes = widths.map(({ heads, groups, inner }) => ({
    num_attention_heads: heads,
    num_key_value_heads: groups,
    intermediate_size: inner,
  }))
  const usual = {
    num_attention_heads: most('heads'),
    num_key_value_heads: most('groups'),
    intermediate_size: most('inner'),
  }
  const own = shapes.flatMap((shape, layer) => {
    const other = Object.entries(shape).filter(([key, value]) => usual[key as keyof typeof usual] !== value)
    return other.length === 0 ? [] : [[layer, Object.fromEntries(other)] as const]
  })
  const { per_layer_config: _, ...before } = copy.text
  const after = {
    ...before,
    ...usual,
    head_dim: headSize,
    ...(own.length && { per_layer_config: Object.fromEntries(own) }),
  }
  return copy.all === copy.text ? after : { ...copy.all, text_config: after }
}

/** Keys of `per_layer_config` that are no widths, which nothing else here knows of. */
export function unknownByLayer(config: Config): string[] {
  const layers = Object.values((config.per_layer_config ?? {}) as Record<string, object | null>)
  const known = ['num_attention_heads', 'num_key_value_heads', 'intermediate_size']
  return [...new Set(layers.flatMap((own) => Object.keys(own ?? {})))].filter((key) => !known.includes(key))
}

/** The widths of a layer: its own where the config has them. */
export function widthsOf(config: Config, layer: number, usual: Widths): Widths {
  const layers = config.per_layer_config as Record<string, Mutable | undefined> | null | undefined
  const own = layers?.[layer]
  return {
    heads: Number(own?.num_attention_heads ?? usual.heads),
    groups: Number(own?.num_key_value_heads ?? usual.groups),
    inner: Number(own?.intermediate_size ?? usual.inner),
  }
}

/**
 * The config with biases on all linears of attention and MLP; nothing where the architecture has no switch for them.
 */
export function withBiases(config: Config): Mutable | undefined {
  const copy = copyOf(config)
  const named = Array.isArray(config.architectures) ? config.architectures[0] : undefined
  const llama = named === 'LlamaForCausalLM' || (copy.all !== copy.text && copy.text.model_type === 'llama')
  if (!llama) return undefined
  Object.assign(copy.text, { attention_bias: true, mlp_bias: true })
  return copy.all
}
