/** Configs of outputs, as they were written where they have not changed. */

import { jsonText } from '../util/json.js'
import { inside } from './inside.js'
import type { Checkpoint } from './open.js'
import { largestConfig, readSmall } from './small.js'

/**
 * config.json of an output: indented, and with the numbers that have not changed as the checkpoint's own config has
 * them.
 */
export async function configText(config: unknown, { folder }: Pick<Checkpoint, 'folder'>): Promise<string> {
  const file = folder === undefined ? undefined : await inside(folder, 'config.json')
  return jsonText(config, file === undefined ? '{}' : (await readSmall(file, largestConfig)).toString('utf8'))
}
