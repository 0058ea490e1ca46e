/**
 * Models by the names that recipes give them, each opened once: a merge asks for the same folder under several names,
 * a batch asks for the same models again and again. Headers are taken to stay as they are for as long as this lives.
 */

import { type Checkpoint, openCheckpoint } from './checkpoint/index.js'
import type { NativeAddon } from './native/border.js'
import { resolveModel } from './recipe/index.js'

/** Headers kept; what was asked for longest ago goes first. */
const most = 256

export class Models {
  private readonly byName = new Map<string, Promise<Checkpoint>>()
  private readonly byPath = new Map<string, Promise<Checkpoint>>()

  constructor(private readonly addon: Pick<NativeAddon, 'readHeader' | 'readIndex'>) {}

  /** The checkpoint that `name` means in a recipe of `folder`. */
  open(name: string, folder: string): Promise<Checkpoint> {
    return once(this.byName, `${folder}\0${name}`, async () => {
      const path = await resolveModel(name, folder)
      return once(this.byPath, path, () => openCheckpoint(this.addon, path, name))
    })
  }
}

function once<T>(known: Map<string, Promise<T>>, key: string, make: () => Promise<T>): Promise<T> {
  const value = known.get(key) ?? make()
  known.delete(key)
  known.set(key, value)
  for (const oldest of known.keys()) {
    if (known.size <= most) break
    known.delete(oldest)
  }
  return value
}
