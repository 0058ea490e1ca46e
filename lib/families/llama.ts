/**
 * LLaMA and its near relatives: pre-norm blocks of rotary grouped attention and a gated MLP. Mistral adds a sliding
 * window, Qwen2 biases on q, k and v.
 */

import { WeightsmithError } from '../errors.js'
import type { Config, Layer, ModelSpec, Op } from './family.js'
import { ropeKind, rotaryFrequencies } from './rope.js'

export const architectures = ['LlamaForCausalLM', 'MistralForCausalLM', 'Qwen2ForCausalLM'] as const
type Architecture = (typeof architectures)[number]

/** The kernel of attention keeps so many elements of a head in registers. */
const mostHeadSize = 256

const required = [
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'vocab_size',
  'max_position_embeddings',
  'rms_norm_eps',
] as const

/** The model that a config describes. Throws ERR_WEIGHTSMITH_FORMAT for a field that is not there, ERR_WEIGHTSMITH_ARGUMENT for what cannot be run. */
export function llama(config: Config, architecture: Architecture, name: string): ModelSpec {
  const absent = required.filter((key) => typeof config[key] !== 'number')
  if (absent.length > 0) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_FORMAT',
      `The config of ${name} has no number for ${absent.join(', ')}, without which ${architecture} cannot be run.`,
    )
  }
  const number = (key: (typeof required)[number]) => Number(config[key])
  const hidden = number('hidden_size')
  const inner = number('intermediate_size')
  const heads = number('num_attention_heads')
  const groups = Number(config.num_key_value_heads ?? heads)
  const headSize = Number(config.head_dim ?? hidden / heads)
  const vocabulary = number('vocab_size')
  const frequencies = rotaryFrequencies(config, headSize)
  const activation = String(config.hidden_act ?? 'silu')
  const missing = [
    ...(activation === 'silu' ? [] : [`the activation ${activation}`]),
    ...(frequencies === undefined ? [`rotary scaling of type ${ropeKind(config)}`] : []),
    ...(Number.isInteger(headSize) && headSize % 2 === 0 && headSize <= mostHeadSize
      ? []
      : [`heads of ${headSize} elements`]),
    ...(Number.isInteger(heads / groups) ? [] : [`${heads} query heads on ${groups} KV heads`]),
    ...(config.use_sliding_window === true ? ['windows that only some layers have'] : []),
  ]
  if (frequencies === undefined || missing.length > 0) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `The model ${name} cannot be run: what it needs and is missing here is ${missing.join(', ')}.`,
    )
  }
  const biased = {
    qkv: architecture === 'Qwen2ForCausalLM' || config.attention_bias === true,
    o: architecture !== 'Qwen2ForCausalLM' && config.attention_bias === true,
    mlp: config.mlp_bias === true,
  }
  const tensors = new Map<string, readonly number[]>()
  const tensor = (key: string, ...shape: number[]) => {
    tensors.set(key, shape)
    return key
  }
  const linear = (key: string, x: string, y: string, [out, from]: [number, number], bias: boolean): Op => ({
    op: 'linear',
    x,
    y,
    weight: tensor(`${key}.weight`, out, from),
    ...(bias ? { bias: tensor(`${key}.bias`, out) } : {}),
  })
  const norm = (key: string): Op => ({ op: 'norm', x: 'x', y: 'h', weight: tensor(`${key}.weight`, hidden) })
  const queries = heads * headSize
  const keys = groups * headSize

  const layer = (prefix: string): Layer => {
    const attention = `${prefix}.self_attn`
    const mlp = `${prefix}.mlp`
    const rows = (parent: string, sizes: Record<string, number>, bias: boolean) =>
      Object.entries(sizes).flatMap(([key, size]) =>
        ['weight', ...(bias ? ['bias'] : [])].map((kind) => ({ tensor: `${parent}.${key}.${kind}`, size })),
      )
    return {
      ops: [
        norm(`${prefix}.input_layernorm`),
        linear(`${attention}.q_proj`, 'h', 'q', [queries, hidden], biased.qkv),
        linear(`${attention}.k_proj`, 'h', 'k', [keys, hidden], biased.qkv),
        linear(`${attention}.v_proj`, 'h', 'v', [keys, hidden], biased.qkv),
        { op: 'attention', q: 'q', k: 'k', v: 'v', y: 'a' },
        linear(`${attention}.o_proj`, 'a', 'h', [hidden, queries], biased.o),
        { op: 'add', x: 'x', y: 'h' },
        norm(`${prefix}.post_attention_layernorm`),
        linear(`${mlp}.gate_proj`, 'h', 'g', [inner, hidden], biased.mlp),
        linear(`${mlp}.up_proj`, 'h', 'u', [inner, hidden], biased.mlp),
        { op: 'gate', x: 'g', y: 'u' },
        linear(`${mlp}.down_proj`, 'g', 'h', [hidden, inner], biased.mlp),
        { op: 'add', x: 'x', y: 'h' },
      ],
      units: [
        {
          kind: 'neuron',
          count: inner,
          rows: rows(mlp, { gate_proj: 1, up_proj: 1 }, biased.mlp),
          columns: [{ tensor: `${mlp}.down_proj.weight`, size: 1 }],
        },
        {
          kind: 'group',
          count: groups,
          rows: rows(attention, { q_proj: queries / groups, k_proj: headSize, v_proj: headSize }, biased.qkv),
          columns: [{ tensor: `${attention}.o_proj.weight`, size: queries / groups }],
        },
      ],
    }
  }
  const embedding = tensor('model.embed_tokens.weight', vocabulary, hidden)
  return {
    architecture,
    vocabulary,
    context: number('max_position_embeddings'),
    heads,
    groups,
    headSize,
    window: architecture === 'MistralForCausalLM' ? Number(config.sliding_window ?? 0) : 0,
    eps: number('rms_norm_eps'),
    frequencies,
    activations: { x: hidden, h: hidden, q: queries, k: keys, v: keys, a: queries, g: inner, u: inner },
    embedding,
    layers: Array.from({ length: number('num_hidden_layers') }, (_, i) => layer(`model.layers.${i}`)),
    final: [norm('model.norm')],
    head: {
      x: 'h',
      weight: config.tie_word_embeddings === true ? embedding : tensor('lm_head.weight', vocabulary, hidden),
    },
    tensors,
  }
}
