/** Opens an adapter, whatever program has saved it. */

import { readdir, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { inside } from '../checkpoint/inside.js'
import { adapterConfigName } from '../checkpoint/open.js'
import type { NativeAddon } from '../native/border.js'
import { WeightsmithError } from '../util/errors.js'
import type { Adapter } from './adapter.js'
import { parseConfig } from './adapter_config.js'
import { otherProgram, otherPrograms } from './kinds.js'
import { mlxWeights, openMlx } from './mlx.js'
import { openPeft } from './peft.js'

type Reader = Pick<NativeAddon, 'readHeader' | 'readIndex'>

/** Opens an adapter that can be folded; throws the first of its obstacles. */
export async function openAdapter(addon: Reader, path: string, name: string): Promise<Adapter> {
  const adapter = await readAdapter(addon, path, name)
  const [obstacle] = adapter.obstacles
  if (obstacle === undefined) return adapter
  throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `The adapter ${path} cannot be folded: ${obstacle}.`, {
    file: path,
  })
}

/** Opens an adapter that may have obstacles: where its tensors cannot be understood, it has none. */
export async function readAdapter(addon: Reader, path: string, name: string): Promise<Adapter> {
  if (await isThere(join(path, mlxWeights))) {
    const config = await parseConfig(await inside(path, adapterConfigName))
    if (config.peft_type === undefined) return openMlx(addon, path, name, config)
  }
  if (!(await isThere(join(path, adapterConfigName)))) await refuseOthers(addon, path)
  return openPeft(addon, path, name, adapterConfigName)
}

/** Names the program whose file this is, where it can be told; names of its modules cannot be. */
async function refuseOthers(addon: Reader, path: string): Promise<void> {
  const names = await readdir(path).catch(() => [basename(path)])
  for (const name of names.filter((file) => file.endsWith('.safetensors'))) {
    const file = await inside(name === basename(path) ? dirname(path) : path, name)
    const { tensors } = await addon.readHeader(file)
    const found = otherPrograms.find(([ending]) => tensors.some((tensor) => ending.test(tensor.name)))
    if (found === undefined) continue
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} is an adapter of ${found[1]}, ${otherProgram}.`, {
      file,
    })
  }
}

function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}
