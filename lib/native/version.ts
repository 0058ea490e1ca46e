/** This package's version, from its package.json. */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from './load.js'

const manifest = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string }

/** Of the package. */
export const version: string = manifest.version
