/** `openModel`: a checkpoint to be run on sequences of token ids. */

import { type Checkpoint, openCheckpoint } from '../checkpoint/index.js'
import { resolveModel } from '../checkpoint/resolve.js'
import type { Engine } from '../engine/engine.js'
import { Model, type ModelOptions } from './index.js'

/**
 * Opens a model to be run more than once: a folder in the Hugging Face layout, or `org/name` from the local cache. The
 * weights are loaded by the first pass and stay on the device until `close`.
 */
export async function openModel(engine: Engine, path: string, options: ModelOptions = {}): Promise<Model> {
  return modelOf(engine, await checkpointOf(engine, path), options)
}

/** The checkpoint of a folder or a name. */
export function checkpointOf(engine: Engine, path: string): Promise<Checkpoint> {
  return engine.use(async ({ addon }) => openCheckpoint(addon, await resolveModel(path, process.cwd()), path))
}

export function modelOf(engine: Engine, checkpoint: Checkpoint, options: ModelOptions): Model {
  return new Model((work) => engine.use(work), checkpoint, options)
}
