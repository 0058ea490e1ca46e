/** A model small enough to be trained in an instant: random weights, and the tokenizer of the demo. */
import { copyFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { bf16, fill, type Raw, writeModel } from './checkpoint.js'

export const demo = join(process.cwd(), 'demo/models/base')
const tokenizer = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'generation_config.json']

export const layers = 3

const config = {
  ...{ hidden_size: 16, intermediate_size: 24, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8 },
  ...{ num_hidden_layers: layers, vocab_size: 64, max_position_embeddings: 64, rms_norm_eps: 1e-5, rope_theta: 1e4 },
  ...{ architectures: ['LlamaForCausalLM'], hidden_act: 'silu', tie_word_embeddings: false, eos_token_id: 2 },
}

/** Shapes of its tensors, with so many layers. */
export function shapes(count = layers): Map<string, number[]> {
  const layer = (i: number): [string, number[]][] =>
    Object.entries({
      ...{ 'self_attn.q_proj': [16, 16], 'self_attn.k_proj': [8, 16], 'self_attn.v_proj': [8, 16] },
      ...{
        'self_attn.o_proj': [16, 16],
        'mlp.gate_proj': [24, 16],
        'mlp.up_proj': [24, 16],
        'mlp.down_proj': [16, 24],
      },
      ...{ input_layernorm: [16], post_attention_layernorm: [16] },
    }).map(([name, shape]) => [`model.layers.${i}.${name}.weight`, shape])
  return new Map<string, number[]>([
    ['model.embed_tokens.weight', [64, 16]],
    ...Array.from({ length: count }, (_, i) => layer(i)).flat(),
    ['model.norm.weight', [16]],
    ['lm_head.weight', [64, 16]],
  ])
}

/** Writes it, in bfloat16 unless `changed` has other tensors of the same names; `more` goes into its config. */
export function smallModel(
  folder: string,
  changed: Record<string, Raw> = {},
  more: { num_hidden_layers?: number; [key: string]: unknown } = {},
): string {
  const tensors = Object.fromEntries(
    [...shapes(more.num_hidden_layers)].map(([name, shape]) => [name, bf16(fill(name, shape), shape)]),
  )
  writeModel(folder, { ...tensors, ...changed }, { ...config, ...more })
  for (const name of tokenizer) copyFileSync(join(demo, name), join(folder, name))
  return folder
}

/** Writes lines of JSON. */
export function lines(file: string, all: readonly object[]): string {
  writeFileSync(file, all.map((line) => `${JSON.stringify(line)}\n`).join(''))
  return file
}

/** Sums of two numbers, all different. */
export const sums = (count: number, from = 0) =>
  Array.from({ length: count }, (_, i) => {
    const [a, b] = [10 + ((7 * (i + from)) % 90), 10 + ((3 * (i + from)) % 80)]
    return { prompt: `${a}+${b}=`, answer: `${a + b}` }
  })
