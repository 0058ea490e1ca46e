/** Types of layers that a config gives by their numbers, as Qwen2 does. */

/**
 * The config with a list of the layers' types, which can move with them, where `max_window_layers` says which have
 * windows.
 */
export function withLayerTypes(config: Readonly<Record<string, unknown>>, depth: number): Record<string, unknown> {
  const { layer_types: types, use_sliding_window: on, max_window_layers: from } = config
  if (types != null || on !== true || typeof from !== 'number') return config
  const typeOf = (layer: number) => (layer < from ? 'full_attention' : 'sliding_attention')
  return { ...config, layer_types: Array.from({ length: depth }, (_, layer) => typeOf(layer)) }
}
