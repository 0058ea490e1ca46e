/**
 * What tensor names say about layers and modules. Names alone drive merging; no table of architectures is needed. A
 * checkpoint can have several stacks of layers (a vision tower beside the language model); recipes move those of the
 * main one.
 */

export interface LayerName {
  /** Up to and without the number: `model.layers`. */
  stack: string
  index: number
  /** From behind the number: `mlp.up_proj.weight`. */
  rest: string
}

/**
 * The layer a tensor belongs to, if any: the outermost of what is numbered so, as a layer may have numbered parts (T5:
 * `encoder.block.3.layer.0`).
 */
export function layerOf(name: string): LayerName | undefined {
  const match = /^((?:.*?\.)?(?:layers?|h|blocks?))\.(\d{1,6})\.(.+)$/.exec(name)
  if (match === null) return undefined
  const [, stack = '', index = '', rest = ''] = match
  return { stack, index: Number(index), rest }
}

const finals = ['lm_head', 'embed_out', 'score', 'norm', 'ln_f', 'final_norm', 'final_layer_?norm', 'layernorm']
/** Of BERT and its like: what reads the last layer, for the tasks they are trained on. */
const encoderFinals = ['pooler', 'cls', '(pre_)?classifier', 'qa_outputs', 'vocab_(transform|layer_norm|projector)']
const behind = new RegExp(`(^|\\.)(${[...finals, ...encoderFinals].join('|')})(\\.|$)`)

/** Whether a tensor outside the layers stands behind them (final norm, head); the others stand before. */
export function standsBehindLayers(name: string): boolean {
  return behind.test(name)
}

/** Number of layers of each stack. */
export function stacksOf(names: Iterable<string>): Map<string, number> {
  const stacks = new Map<string, number>()
  for (const name of names) {
    const layer = layerOf(name)
    if (layer) stacks.set(layer.stack, Math.max(stacks.get(layer.stack) ?? 0, layer.index + 1))
  }
  return stacks
}

/**
 * The stack of the language model: the one with as many layers as the config says, not a vision tower, or the deepest.
 */
export function mainStack(stacks: ReadonlyMap<string, number>, configured: number | undefined): string | undefined {
  const score = ([stack, count]: [string, number]) =>
    (count === configured ? 1e7 : 0) + (/vision|visual|image|audio|encoder/.test(stack) ? 0 : 5e6) + count
  return [...stacks].sort((a, b) => score(b) - score(a))[0]?.[0]
}

export const modules = ['q', 'k', 'v', 'o', 'gate', 'up', 'down', 'norm', 'embed', 'lm_head', 'other'] as const

export type Module = (typeof modules)[number]

const patterns: readonly [Module, RegExp][] = [
  ['norm', /norm|(^|\.)ln_/],
  ['q', /(^|\.)(q_proj|query|wq|q)\./],
  ['k', /(^|\.)(k_proj|key|wk|k)\./],
  ['v', /(^|\.)(v_proj|value|wv|v)\./],
  ['o', /(^|\.)(o_proj|out_proj|wo|o|attention\.dense)\./],
  ['gate', /(^|\.)(gate_proj|w1)\./],
  ['up', /(^|\.)(up_proj|fc1|w3|c_fc|dense_h_to_4h)\./],
  ['down', /(^|\.)(down_proj|fc2|w2|dense_4h_to_h)\./],
  ['lm_head', /(^|\.)(lm_head|embed_out)(\.|$)/],
  ['embed', /embed|(^|\.)(wte|wpe)\./],
]

/** The kind of module a tensor belongs to, by the names that the common families use. */
export function moduleOf(name: string): Module {
  return patterns.find(([, pattern]) => pattern.test(name))?.[0] ?? 'other'
}
