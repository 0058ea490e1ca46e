/** Blocks go: left out, or without effect. */

import type { ModelSpec } from '../architectures/index.js'
import { type Checkpoint, type Content, cutTensor, layerLists, layerOf, outputConfig } from '../checkpoint/index.js'
import type { Scores } from '../score/index.js'
import { argument, type Choice, type Decision, elementsOf, type Subject } from './decision.js'
import { checkCount, leastBlocks, leastRun } from './depth.js'

export async function pruneBlocks(subject: Subject, options: Choice): Promise<Decision> {
  const { checkpoint, spec } = subject
  const scores = subject.scores as Scores
  const { method, remove = 1, positions = 'all', layout = 'masked' } = options
  const layers = spec.language.layers.length
  const read = (name: string) => scores.read(name)
  checkCount(remove, layers)
  const blockScores = await read(
    method === 'bi' ? 'block_influence' : method === 'ablation' ? `importance/${positions}` : `angular/${remove}`,
  )
  const blocks = method === 'angular' ? leastRun(blockScores, remove, layers) : leastBlocks(blockScores, remove)
  const gone = new Set(blocks)
  const tensors = new Map<string, Content | null>()
  let removed = 0
  for (const tensor of checkpoint.tensors.values()) {
    const layer = layerOf(tensor.name)
    if (layer === undefined || layer.stack !== checkpoint.stack) continue
    if (gone.has(layer.index)) removed += elementsOf(tensor.shape)
  }
  if (layout === 'compact') {
    const moved = new Map<string, Content>()
    for (const tensor of checkpoint.tensors.values()) {
      const layer = layerOf(tensor.name)
      if (layer === undefined || layer.stack !== checkpoint.stack) continue
      tensors.set(tensor.name, null)
      if (gone.has(layer.index)) continue
      const index = layer.index - blocks.filter((block) => block < layer.index).length
      moved.set(`${layer.stack}.${index}.${layer.rest}`, cutTensor(checkpoint, tensor))
    }
    for (const [name, content] of moved) tensors.set(name, content)
  } else {
    // What a block adds to the residual stream is zero.
    for (const layer of blocks) {
      for (const name of contributorsOf(spec, layer, checkpoint)) {
        const tensor = checkpoint.tensors.get(name)
        if (tensor === undefined) continue
        const zeroRows = Array.from({ length: tensor.shape[0] ?? 0 }, (_, row) => row)
        tensors.set(name, cutTensor(checkpoint, tensor, { zeroRows }))
      }
    }
  }
  const kept = Array.from({ length: layers }, (_, layer) => layer).filter((layer) => !gone.has(layer))
  const change = { dtype: undefined, layers: [layerLists(checkpoint, kept)], vocabulary: undefined }
  return {
    tensors,
    config: layout === 'compact' && checkpoint.config ? outputConfig(checkpoint.config, change) : undefined,
    removed,
    about: `The blocks ${blocks.join(', ')} of ${layers} are ${layout === 'compact' ? 'left out' : 'without effect'}, chosen by ${method}.`,
    blocks,
    blockScores: [...blockScores],
    notes: [],
  }
}

/**
 * The tensors through which a block changes the residual stream: where they are zeros, it does not. Throws
 * ERR_WEIGHTSMITH_ARGUMENT for a block that changes its input whatever its weights.
 */
export function contributorsOf(
  spec: ModelSpec,
  layer: number,
  { name, tensors }: Pick<Checkpoint, 'name' | 'tensors'>,
): string[] {
  const ops = spec.language.layers[layer]?.ops ?? []
  const found = ops.flatMap((op) => {
    const adds = op.op === 'linear' && ops.some((other) => other.op === 'add' && other.y === op.y)
    return adds ? [op.weight, ...(op.bias === undefined ? [] : [op.bias])].filter((tensor) => tensors.has(tensor)) : []
  })
  if (found.length > 0) return found
  throw argument(`Block ${layer} of ${name} changes its input whatever its weights; leave it out (--layout compact).`)
}
