/**
 * The vision encoder of CLIP: patches and a class token, learned positions, pre-norm blocks in which all rows see one
 * another.
 */

import type { OpSpec } from '../runtime/ops/index.js'
import type { Config, Layer, Stack, Subject } from './architecture.js'
import { activationOf, headsMissing, missed, numbersOf, rowsOf, type Tensors } from './build.js'

/** What a config leaves out; transformers' defaults. */
const defaults = {
  hidden_size: 768,
  intermediate_size: 3072,
  num_hidden_layers: 12,
  num_attention_heads: 12,
  num_channels: 3,
  image_size: 224,
  patch_size: 32,
  hidden_act: 'quick_gelu',
  layer_norm_eps: 1e-5,
}

const required = [
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'num_channels',
  'image_size',
  'patch_size',
  'layer_norm_eps',
] as const

export interface Clip {
  stack: Stack
  hidden: number
  channels: number
  size: number
  patch: number
}

/**
 * Its tensors begin with `root`; `more`: activations of what follows the vision encoder. The second result: what is
 * missing.
 */
export function clip(
  config: Config,
  subject: Subject,
  { tensors, root, final, more }: { tensors: Tensors; root: string; final: OpSpec[]; more: Record<string, number> },
): [Clip, string[]] {
  const given = { ...defaults, ...config }
  const number = numbersOf(given, required, subject)
  const { hidden_size: hidden, intermediate_size: inner, num_attention_heads: heads, num_hidden_layers: depth } = number
  const { num_channels: channels, image_size: size, patch_size: patch, layer_norm_eps: eps } = number
  const headSize = hidden / heads
  const kind = activationOf(given.hidden_act) ?? 'quick_gelu'
  const missing = missed([
    config.model_type !== undefined &&
      config.model_type !== 'clip_vision_model' &&
      `the vision encoder ${config.model_type}`,
    activationOf(given.hidden_act) === undefined && `the activation ${given.hidden_act}`,
    ...headsMissing({ heads, numKvHeads: heads, size: headSize, rotary: false }),
  ])
  const rows = 1 + Math.floor(size / patch) ** 2

  const layer = (index: number): Layer => {
    const prefix = `${root}.encoder.layers.${index}`
    const attention = `${prefix}.self_attn`
    const linear = (key: string, x: string, y: string, shape: [number, number]) =>
      tensors.linear(key, x, y, shape, true)
    const square: [number, number] = [hidden, hidden]
    return {
      ops: [
        tensors.layerNorm(`${prefix}.layer_norm1`, 'x', 'h', hidden, eps),
        linear(`${attention}.q_proj`, 'h', 'q', square),
        linear(`${attention}.k_proj`, 'h', 'k', square),
        linear(`${attention}.v_proj`, 'h', 'v', square),
        { op: 'attention', q: 'q', k: 'k', v: 'v', y: 'a', window: 0 },
        linear(`${attention}.out_proj`, 'a', 'h', square),
        { op: 'add', x: 'x', y: 'h' },
        tensors.layerNorm(`${prefix}.layer_norm2`, 'x', 'h', hidden, eps),
        linear(`${prefix}.mlp.fc1`, 'h', 'm', [inner, hidden]),
        { op: 'activation', kind, x: 'm' },
        linear(`${prefix}.mlp.fc2`, 'm', 'h', [hidden, inner]),
        { op: 'add', x: 'x', y: 'h' },
      ],
      units: [
        {
          kind: 'neuron',
          count: inner,
          rows: rowsOf(`${prefix}.mlp`, { fc1: 1 }, true),
          columns: [{ tensor: `${prefix}.mlp.fc2.weight`, size: 1 }],
        },
        {
          kind: 'group',
          count: heads,
          rows: rowsOf(attention, { q_proj: headSize, k_proj: headSize, v_proj: headSize }, true),
          columns: [{ tensor: `${attention}.out_proj.weight`, size: headSize }],
        },
      ],
    }
  }
  const embeddings = `${root}.embeddings`
  const table = tensors.add(`${embeddings}.position_embedding.weight`, rows, hidden)
  return [
    {
      stack: {
        activations: {
          ...{
            patches: channels * patch ** 2,
            x: hidden,
            h: hidden,
            q: hidden,
            k: hidden,
            v: hidden,
            a: hidden,
            m: inner,
          },
          ...more,
        },
        attention: { heads, numKvHeads: heads, headSize, sequenceLength: rows },
        embed: [
          // A convolution whose patches do not overlap is a product.
          {
            op: 'linear',
            x: 'patches',
            y: 'h',
            weight: tensors.add(`${embeddings}.patch_embedding.weight`, hidden, channels, patch, patch),
          },
          { op: 'class_token', y: 'h', weight: tensors.add(`${embeddings}.class_embedding`, hidden) },
          { op: 'embed', y: 'h', table, by: 'position', add: true },
          // So it is spelled.
          tensors.layerNorm(`${root}.pre_layrnorm`, 'h', 'x', hidden, eps),
        ],
        layers: Array.from({ length: depth }, (_, i) => layer(i)),
        final,
      },
      ...{ hidden, channels, size, patch },
    },
    missing,
  ]
}
