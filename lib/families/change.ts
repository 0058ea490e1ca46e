/** What a config says after a model was pruned: other widths, the same in all layers or a layer each, and biases. */

import type { Config } from './family.js'

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

/** Names of what a config of LLaMA's kind says of its widths; nothing for other families. */
function isLlama({ all, text }: { all: Mutable; text: Mutable }): boolean {
  return typeof text.intermediate_size === 'number' || all !== text
}

/**
 * The config with these widths, a layer each. Where they differ between layers, `layer_shapes` has them, and the usual keys
 * have the widest. Nothing where the family has no keys for them.
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
  const uniform = shapes.every((shape) => JSON.stringify(shape) === JSON.stringify(shapes[0]))
  Object.assign(copy.text, {
    num_attention_heads: most('heads'),
    num_key_value_heads: most('groups'),
    intermediate_size: most('inner'),
    head_dim: headSize,
    ...(uniform ? {} : { layer_shapes: shapes }),
  })
  return copy.all
}

/** The widths of a layer: its own where the config has them. */
export function widthsOf(config: Config, layer: number, usual: Widths): Widths {
  const shapes = config.layer_shapes
  const own = Array.isArray(shapes) ? (shapes[layer] as Mutable | undefined) : undefined
  return {
    heads: Number(own?.num_attention_heads ?? usual.heads),
    groups: Number(own?.num_key_value_heads ?? usual.groups),
    inner: Number(own?.intermediate_size ?? usual.inner),
  }
}

/** The config with biases on all linears of attention and MLP; nothing where the family has no switch for them. */
export function withBiases(config: Config): Mutable | undefined {
  const copy = copyOf(config)
  const named = Array.isArray(config.architectures) ? config.architectures[0] : undefined
  const llama = named === 'LlamaForCausalLM' || (copy.all !== copy.text && copy.text.model_type === 'llama')
  if (!llama) return undefined
  Object.assign(copy.text, { attention_bias: true, mlp_bias: true })
  return copy.all
}
