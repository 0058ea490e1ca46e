/** What moved layers change in a config: their number, lists with an entry a layer, and lists of layer numbers. */

import type { LayerChange } from './auxiliary.js'
import { withLayerTypes } from './layer_types.js'
import { type Checkpoint, textConfig } from './open.js'

/** Lists of the numbers of layers that differ from the others. */
const numbered: ReadonlySet<string> = new Set(['mlp_only_layers', 'cross_attention_layers'])

/** What differs in a layer from the usual keys, by its number. */
const byLayer = 'per_layer_config'

/** Lists whose length has nothing to do with layers, whatever it is. */
const unrelated = /^architectures$|_token_ids?$|^rope_|_sizes?$|^suppress_tokens$/

/** `count` layers in a row of a checkpoint, from the layer `first` on; the first of the inputs gives the config. */
interface Layers {
  inputs: { checkpoint: Checkpoint; first: number }[]
  count: number
}

export function layerChange(slices: Layers[], section: string | undefined): LayerChange {
  const count = slices.reduce((sum, slice) => sum + slice.count, 0)
  const origins = slices.flatMap(({ inputs, count: layers }) => {
    const [input] = inputs
    if (input === undefined) return []
    const { config = {}, stack, stacks } = input.checkpoint
    const depth = stacks.get(stack ?? '') ?? 0
    const own = { config: withLayerTypes(textConfig(config), depth), depth }
    return Array.from({ length: layers }, (_, k) => ({ ...own, layer: input.first + k }))
  })
  const lists: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(origins[0]?.config ?? {})) {
    if (key === byLayer) {
      const moved = origins.flatMap(({ config, layer }, i) => {
        const own = (config[byLayer] as Record<string, unknown> | null | undefined)?.[layer]
        return own === undefined ? [] : [[i, own] as const]
      })
      lists[key] = Object.fromEntries(moved)
    }
    if (!Array.isArray(value)) continue
    if (numbered.has(key)) {
      lists[key] = origins.flatMap(({ config, layer }, i) => {
        const from = config[key]
        return Array.isArray(from) && from.includes(layer) ? [i] : []
      })
    } else if (!unrelated.test(key)) {
      const moved = origins.flatMap(({ config, depth, layer }) => {
        const from = config[key]
        return Array.isArray(from) && from.length === depth ? [from[layer] as unknown] : []
      })
      if (moved.length === count) lists[key] = moved
    }
  }
  return { count, lists, ...(section === undefined ? {} : { section }) }
}

/** The same for some layers of one checkpoint. */
export function layerLists(checkpoint: Checkpoint, kept: readonly number[]): LayerChange {
  return layerChange(
    kept.map((first) => ({ count: 1, inputs: [{ checkpoint, first }] })),
    undefined,
  )
}
