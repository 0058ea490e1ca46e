/**
 * OPT: learned positions, LayerNorm before each half of a block (or after it, in the smallest of them), biases, an MLP
 * of two matrices, and a head that is the embedding.
 */

import type { OpSpec } from '../runtime/ops/index.js'
import type { Config, Layer, ModelSpec, Subject } from './architecture.js'
import { activationOf, headsMissing, missed, numbersOf, refusal, rowsOf, Tensors } from './build.js'

const required = [
  'hidden_size',
  'ffn_dim',
  'num_hidden_layers',
  'num_attention_heads',
  'vocab_size',
  'max_position_embeddings',
] as const

/** PyTorch's default; configs of OPT do not say it. */
const eps = 1e-5
/** The table of positions starts with rows that once stood for padding. */
const offset = 2

export function opt(config: Config, subject: Subject): ModelSpec {
  const number = numbersOf(config, required, subject)
  const { hidden_size: hidden, ffn_dim: inner, num_attention_heads: heads } = number
  const { num_hidden_layers: depth, vocab_size: vocabulary, max_position_embeddings: context } = number
  const embedded = Number(config.word_embed_proj_dim ?? hidden)
  const before = config.do_layer_norm_before !== false
  const biased = config.enable_bias !== false
  const headSize = hidden / heads
  const kind = activationOf(config.activation_function ?? 'relu')
  const missing = missed([
    kind === undefined && `the activation ${config.activation_function}`,
    config.layer_norm_elementwise_affine === false && 'norms without weights',
    ...headsMissing({ heads, numKvHeads: heads, size: headSize, rotary: false }),
  ])
  if (kind === undefined || missing.length > 0) throw refusal(missing, subject)

  const tensors = new Tensors()
  // saved without the head, which is the embedding, the names lack their first part
  const root = subject.has('decoder.embed_tokens.weight') ? 'decoder' : 'model.decoder'
  /** One half of a block, from `x` to what is added to it; the norm before it, or after the sum. */
  const half = (norm: string, ops: (x: string) => OpSpec[]): OpSpec[] => {
    if (before) return [tensors.layerNorm(norm, 'x', 'h', hidden, eps), ...ops('h'), { op: 'add', x: 'x', y: 'h' }]
    return [...ops('x'), { op: 'add', x: 'h', y: 'x' }, tensors.layerNorm(norm, 'h', 'x', hidden, eps)]
  }
  const layer = (index: number): Layer => {
    const prefix = `${root}.layers.${index}`
    const attention = `${prefix}.self_attn`
    const linear = (key: string, x: string, y: string, shape: [number, number]) =>
      tensors.linear(key, x, y, shape, biased)
    const square: [number, number] = [hidden, hidden]
    return {
      ops: [
        ...half(`${prefix}.self_attn_layer_norm`, (x) => [
          linear(`${attention}.q_proj`, x, 'q', square),
          linear(`${attention}.k_proj`, x, 'k', square),
          linear(`${attention}.v_proj`, x, 'v', square),
          { op: 'attention', q: 'q', k: 'k', v: 'v', y: 'a', window: 0 },
          linear(`${attention}.out_proj`, 'a', 'h', square),
        ]),
        ...half(`${prefix}.final_layer_norm`, (x) => [
          linear(`${prefix}.fc1`, x, 'm', [inner, hidden]),
          { op: 'activation', kind, x: 'm' },
          linear(`${prefix}.fc2`, 'm', 'h', [hidden, inner]),
        ]),
      ],
      units: [
        {
          kind: 'neuron',
          count: inner,
          rows: rowsOf(prefix, { fc1: 1 }, biased),
          columns: [{ tensor: `${prefix}.fc2.weight`, size: 1 }],
        },
        {
          kind: 'group',
          count: heads,
          rows: rowsOf(attention, { q_proj: headSize, k_proj: headSize, v_proj: headSize }, biased),
          columns: [{ tensor: `${attention}.out_proj.weight`, size: headSize }],
        },
      ],
    }
  }
  const table = tensors.add(`${root}.embed_tokens.weight`, vocabulary, embedded)
  const projected = embedded !== hidden
  const project = (key: string, x: string, y: string, shape: [number, number]) =>
    projected ? [tensors.linear(`${root}.${key}`, x, y, shape, false)] : []
  const layers = Array.from({ length: depth }, (_, i) => layer(i))
  const normed = before && config._remove_final_layer_norm !== true
  const last = normed ? 'h' : 'x'
  return {
    architecture: subject.architecture,
    vocabulary,
    context,
    tensors: tensors.shapes,
    language: {
      activations: { x: hidden, h: hidden, e: embedded, q: hidden, k: hidden, v: hidden, a: hidden, m: inner },
      attention: { heads, numKvHeads: heads, headSize, sequenceLength: 0 },
      embed: [
        { op: 'embed', y: projected ? 'e' : 'x', table, by: 'id' },
        ...project('project_in', 'e', 'x', [hidden, embedded]),
        {
          op: 'embed',
          y: 'x',
          table: tensors.add(`${root}.embed_positions.weight`, context + offset, hidden),
          by: 'position',
          offset,
          add: true,
        },
      ],
      layers,
      final: [
        ...(normed ? [tensors.layerNorm(`${root}.final_layer_norm`, 'x', 'h', hidden, eps)] : []),
        ...project('project_out', last, 'e', [embedded, hidden]),
      ],
    },
    head: {
      x: projected ? 'e' : last,
      weight: config.tie_word_embeddings === false ? tensors.add('lm_head.weight', vocabulary, hidden) : table,
    },
  }
}
