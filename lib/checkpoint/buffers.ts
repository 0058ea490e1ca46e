/**
 * Tensors that are stored beside weights and are none: tables and masks that a model computes when it is built.
 * Versions of transformers differ in whether they store them, how long, and as what type, so no two models have to
 * agree about them.
 */

const rotary = /(^|\.)(rotary_emb|rotary_pos_emb|rotary)\.(original_)?(inv_freq|cos_cached|sin_cached)$/
const byName = /(^|\.)(masked_bias|(attn|attention|causal)_mask|position_ids|token_type_ids)$/
/** GPT-2, GPT-J, GPT-NeoX: who may look at whom, for every two places. */
const causal = /(^|\.)(attn|attention)\.bias$/

/** Whether a tensor of this name and shape is one that the model computes itself. */
export function isComputed({ name, shape }: { name: string; shape: readonly number[] }): boolean {
  if (rotary.test(name) || byName.test(name)) return true
  const [one, two, rows, columns] = shape
  return causal.test(name) && shape.length === 4 && one === 1 && two === 1 && rows === columns
}
