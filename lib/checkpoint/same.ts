/**
 * Tensors that a merge copies from the first model because all models should have the same: indices, masks, counters.
 */

import { type FileHandle, open } from 'node:fs/promises'
import { WeightsmithError } from '../util/errors.js'
import { readFully } from './cut.js'
import type { Checkpoint, CheckpointTensor } from './open.js'

interface Reading {
  path: string
  file: FileHandle
  begin: number
}

interface Place {
  checkpoint: Checkpoint
  tensor: CheckpointTensor
}

/** Reads the tensors, of one shape; throws ERR_WEIGHTSMITH_DTYPE where one holds other bytes than the first. */
export async function refuseDifferent([first, ...others]: readonly Place[]): Promise<void> {
  if (first === undefined) return
  for (const other of others) {
    const types = [first, other].map(({ tensor }) => tensor.dtype)
    if (types[0] === types[1] && (await sameBytes(first, other))) continue
    const what = types[0] === types[1] ? 'differs between' : `is ${types.join(' and ')} in`
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_DTYPE',
      `Tensor ${first.tensor.name} holds no floats (${types[0]}), so it is copied and never mixed, but it ${what} ` +
        `${first.checkpoint.name} and ${other.checkpoint.name}; make it the same in both, or leave it out of them.`,
      { tensor: first.tensor.name, file: other.checkpoint.path },
    )
  }
}

/** Bytes read at a time. */
const chunk = 2 ** 20

async function sameBytes(...places: [Place, Place]): Promise<boolean> {
  const length = places[0].tensor.end - places[0].tensor.begin
  const opened: Reading[] = []
  try {
    for (const { checkpoint, tensor } of places) {
      const path = checkpoint.files[tensor.file]?.path ?? ''
      opened.push({ path, file: await open(path, 'r'), begin: tensor.begin })
    }
    for (let done = 0; done < length; done += chunk) {
      const [a, b] = await Promise.all(
        opened.map(async ({ path, file, begin }) => {
          const bytes = new Uint8Array(Math.min(chunk, length - done))
          await readFully(file, path, bytes, begin + done)
          return bytes
        }),
      )
      if (a !== undefined && b !== undefined && Buffer.compare(a, b) !== 0) return false
    }
    return true
  } finally {
    for (const { file } of opened) await file.close()
  }
}
