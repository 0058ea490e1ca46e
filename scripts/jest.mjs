/** How jest is started: the flags of Node that its workers inherit, and how many of them there are. */
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { root } from './sources.mjs'

/** Arguments of Node, before those of jest. Files of tests go side by side, a few at a time: each opens a device, and
 * software drivers use every core. */
export const jestCommand = [
  '--experimental-vm-modules',
  `--import=${pathToFileURL(join(root, 'scripts/orphan.mjs'))}`,
  join(root, 'node_modules/jest/bin/jest.js'),
  `--maxWorkers=${Math.min(availableParallelism(), 4)}`,
]
