/** What a checkpoint holds, from its headers alone; no weight is read. */

import { loadAddon } from '../native/load.js'
import { openCheckpoint, tiesEmbeddings } from './index.js'
import { resolveModel } from './resolve.js'

export interface InspectReport {
  path: string
  files: { name: string; size: number; tensors: number }[]
  parameters: number
  /** Bytes of the tensors, here and below; of `files` with their headers. */
  size: number
  dtypes: { dtype: string; tensors: number; parameters: number; size: number }[]
  /** Layers of each stack, and which one is the language model's. */
  stacks: { name: string; layers: number; main: boolean }[]
  tiedEmbeddings: boolean
  /** In file order. */
  tensors: { name: string; dtype: string; shape: number[]; parameters: number; size: number; file: string }[]
  /** What is odd about its files. */
  notes: string[]
  /** config.json, where there is one. */
  config?: Record<string, unknown>
}

/** Reads headers, index and config of a folder, a .safetensors file or a model of the local Hugging Face cache. */
export async function inspect(model: string): Promise<InspectReport> {
  const path = await resolveModel(model, process.cwd())
  const checkpoint = await openCheckpoint(loadAddon(), path, model)
  const tensors = [...checkpoint.tensors.values()].map(({ name, dtype, shape, begin, end, file }) => ({
    name,
    dtype,
    shape,
    parameters: shape.reduce((a, b) => a * b, 1),
    size: end - begin,
    file: checkpoint.files[file]?.name ?? '',
  }))
  const dtypes = new Map<string, InspectReport['dtypes'][number]>()
  for (const { dtype, parameters, size } of tensors) {
    const sum = dtypes.get(dtype) ?? { dtype, tensors: 0, parameters: 0, size: 0 }
    dtypes.set(dtype, {
      dtype,
      tensors: sum.tensors + 1,
      parameters: sum.parameters + parameters,
      size: sum.size + size,
    })
  }
  return {
    path,
    files: checkpoint.files.map(({ name, size }) => ({
      name,
      size,
      tensors: tensors.filter(({ file }) => file === name).length,
    })),
    parameters: tensors.reduce((sum, tensor) => sum + tensor.parameters, 0),
    size: tensors.reduce((sum, tensor) => sum + tensor.size, 0),
    dtypes: [...dtypes.values()].sort((a, b) => b.size - a.size),
    stacks: [...checkpoint.stacks].map(([name, layers]) => ({ name, layers, main: name === checkpoint.stack })),
    tiedEmbeddings: tiesEmbeddings(checkpoint),
    tensors,
    notes: checkpoint.notes ?? [],
    ...(checkpoint.config === undefined ? {} : { config: checkpoint.config }),
  }
}
