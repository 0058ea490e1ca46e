/** The files that a run reads: what tells them from others, and whether they are still the same when it ends. */

import { stat } from 'node:fs/promises'
import { WeightsmithError } from '../util/errors.js'
import { type Checkpoint, type CheckpointFile, identityOf } from './open.js'
import type { InputFile } from './resume/index.js'

/** Each file once. */
export function inputsOf(checkpoints: Iterable<Checkpoint>): InputFile[] {
  const files = new Map<string, CheckpointFile>()
  for (const checkpoint of checkpoints) for (const file of checkpoint.files) files.set(file.path, file)
  return [...files.values()].map(({ path, size, modified, headerHash }) => ({
    path,
    size,
    mtimeMs: modified,
    headerHash,
  }))
}

/** Refuses a result whose inputs were replaced, truncated or written to while they were read. */
export async function refuseChanged(checkpoints: Iterable<Checkpoint>): Promise<void> {
  const files = [...checkpoints].flatMap((checkpoint) => checkpoint.files)
  for (const { path, size, modified, identity } of new Set(files)) {
    const info = await stat(path).catch(() => undefined)
    const change =
      info === undefined
        ? 'is gone'
        : info.size !== size
          ? `had ${size} bytes and has ${info.size} now`
          : identityOf(info) !== identity
            ? 'is another file now'
            : info.mtimeMs !== modified
              ? 'was written to'
              : undefined
    if (change === undefined) continue
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_INPUT_CHANGED',
      `The input ${path} ${change}, while it was being read; the result was discarded.`,
      { file: path },
    )
  }
}
