/**
 * LLaMA and its near relatives: pre-norm blocks of rotary grouped attention and a gated MLP. Mistral adds a sliding
 * window, Qwen2 biases on q, k and v, Qwen3 norms of the heads of q and k, Gemma norms by 1 + weight and a scaled
 * embedding.
 */

import type { OpSpec } from '../runtime/ops/index.js'
import type { Config, Layer, ModelSpec, Subject } from './architecture.js'
import { activationOf, headsMissing, missed, numbersOf, refusal, rowsOf, Tensors } from './build.js'
import { unknownByLayer, widthsOf } from './change.js'
import { ropeKind, rotaryOf } from './rope.js'
import { type Windowed, windowsOf } from './windows.js'

/** How relatives differ from LLaMA. */
interface Traits {
  /** Biases on q, k and v alone, whatever the config says. */
  qkvBias?: boolean
  headNorms?: boolean
  /** Which layers have the config's window where it has no `layer_types`; without it, none can have one. */
  windowed?: Windowed
  /** Gemma's norms and embedding, and its activation where the config has none. */
  gemma?: boolean
}

export const traits: Readonly<Record<string, Traits>> = {
  LlamaForCausalLM: {},
  MistralForCausalLM: { windowed: 'always' },
  Qwen2ForCausalLM: { qkvBias: true, windowed: 'switched' },
  Qwen3ForCausalLM: { headNorms: true, windowed: 'switched' },
  GemmaForCausalLM: { gemma: true },
}

const required = [
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'vocab_size',
  'max_position_embeddings',
  'rms_norm_eps',
] as const

/** What the names of tensors begin with, up to the dot before `layers.0`, and the head. */
export interface Names {
  model: string
  head: string
}

/** Saved without the head, the names of a model lack their first part. */
const namesOf = ({ has }: Subject): Names => ({
  model: has('embed_tokens.weight') && !has('model.embed_tokens.weight') ? '' : 'model.',
  head: 'lm_head',
})

/**
 * The model that a config describes. Throws ERR_WEIGHTSMITH_FORMAT for a field that is not there,
 * ERR_WEIGHTSMITH_ARGUMENT for what cannot be run.
 */
export function llama(config: Config, subject: Subject, names: Names = namesOf(subject)): ModelSpec {
  const { qkvBias = false, headNorms = false, gemma = false, windowed } = traits[subject.architecture] ?? {}
  const number = numbersOf(config, required, subject)
  const { hidden_size: hidden, intermediate_size: inner, num_attention_heads: heads, rms_norm_eps: eps } = number
  const { num_hidden_layers: depth, vocab_size: vocabulary, max_position_embeddings: positions } = number
  const numKvHeads = Number(config.num_key_value_heads ?? heads)
  const headSize = Number(config.head_dim ?? hidden / heads)
  const rotary = rotaryOf(config, headSize, positions)
  const activation = gemma
    ? (config.hidden_activation ?? 'gelu_pytorch_tanh')
    : (config.hidden_act ?? config.hidden_activation ?? 'silu')
  const kind = activationOf(activation)
  const { windows, missing: unknownTypes } = windowsOf(config, windowed, depth)
  const missing = missed([
    kind === undefined && `the activation ${activation}`,
    ...unknownByLayer(config).map((key) => `${key} by layer (per_layer_config)`),
    ...unknownTypes,
    config.use_bidirectional_attention === true && 'attention in both directions',
    rotary === undefined && `rotary scaling of type ${ropeKind(config)}`,
    ...headsMissing({ heads, numKvHeads, size: headSize, rotary: true }),
  ])
  if (rotary === undefined || kind === undefined || missing.length > 0) throw refusal(missing, subject)

  const biased = { qkv: qkvBias || config.attention_bias === true, mlp: config.mlp_bias === true }
  const biasedOut = !qkvBias && biased.qkv
  const tensors = new Tensors()
  const plus = gemma ? { plus: 1 } : {}
  const norm = (key: string) => tensors.rmsNorm(key, 'x', 'h', hidden, eps, plus)

  const layer = (index: number): Layer => {
    const own = widthsOf(config, index, { heads, groups: numKvHeads, inner })
    const queries = own.heads * headSize
    const keys = own.groups * headSize
    const prefix = `${names.model}layers.${index}`
    const attention = `${prefix}.self_attn`
    const mlp = `${prefix}.mlp`
    /** q or k, whose heads have norms in Qwen3; `a` is free until attention writes it. */
    const projected = (name: 'q' | 'k', count: number): OpSpec[] => {
      const shape: [number, number] = [count * headSize, hidden]
      if (!headNorms) return [tensors.linear(`${attention}.${name}_proj`, 'h', name, shape, biased.qkv)]
      return [
        tensors.linear(`${attention}.${name}_proj`, 'h', 'a', shape, biased.qkv),
        tensors.rmsNorm(`${attention}.${name}_norm`, 'a', name, headSize, eps, { heads: count }),
      ]
    }
    return {
      ops: [
        norm(`${prefix}.input_layernorm`),
        ...projected('q', own.heads),
        ...projected('k', own.groups),
        tensors.linear(`${attention}.v_proj`, 'h', 'v', [keys, hidden], biased.qkv),
        {
          op: 'attention',
          q: 'q',
          k: 'k',
          v: 'v',
          y: 'a',
          window: windows[index] ?? 0,
          heads: own.heads,
          numKvHeads: own.groups,
        },
        tensors.linear(`${attention}.o_proj`, 'a', 'h', [hidden, queries], biasedOut),
        { op: 'add', x: 'x', y: 'h' },
        norm(`${prefix}.post_attention_layernorm`),
        tensors.linear(`${mlp}.gate_proj`, 'h', 'g', [own.inner, hidden], biased.mlp),
        tensors.linear(`${mlp}.up_proj`, 'h', 'u', [own.inner, hidden], biased.mlp),
        { op: 'glu', kind, x: 'g', y: 'u' },
        tensors.linear(`${mlp}.down_proj`, 'g', 'h', [hidden, own.inner], biased.mlp),
        { op: 'add', x: 'x', y: 'h' },
      ],
      units: [
        {
          kind: 'neuron',
          count: own.inner,
          rows: rowsOf(mlp, { gate_proj: 1, up_proj: 1 }, biased.mlp),
          columns: [{ tensor: `${mlp}.down_proj.weight`, size: 1 }],
        },
        {
          kind: 'group',
          count: own.groups,
          rows: rowsOf(attention, { q_proj: queries / own.groups, k_proj: headSize, v_proj: headSize }, biased.qkv),
          columns: [{ tensor: `${attention}.o_proj.weight`, size: queries / own.groups }],
        },
      ],
    }
  }
  const queries = heads * headSize
  const keys = numKvHeads * headSize
  const table = tensors.add(`${names.model}embed_tokens.weight`, vocabulary, hidden)
  const tied = (config.tie_word_embeddings ?? gemma) === true
  return {
    architecture: subject.architecture,
    vocabulary,
    context: rotary.context,
    tensors: tensors.shapes,
    language: {
      activations: { x: hidden, h: hidden, q: queries, k: keys, v: keys, a: queries, g: inner, u: inner },
      attention: { heads, numKvHeads, headSize, sequenceLength: 0, rotary: rotary.angles },
      embed: [{ op: 'embed', y: 'x', table, by: 'id', ...(gemma ? { scale: Math.sqrt(hidden) } : {}) }],
      layers: Array.from({ length: depth }, (_, i) => layer(i)),
      final: [norm(`${names.model}norm`)],
    },
    head: { x: 'h', weight: tied ? table : tensors.add(`${names.head}.weight`, vocabulary, hidden) },
  }
}
