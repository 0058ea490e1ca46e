/** `weightsmith verify`. */

import type { Command } from 'commander'
import { type VerifyReport, verify } from '../checkpoint/verify.js'
import { plural } from './format.js'
import { beginWork, signal } from './interrupt.js'
import { json } from './options.js'
import { showProgress } from './progress.js'
import { type Common, print, verb } from './verb.js'

export function addVerify(program: Command): void {
  verb(
    program,
    'verify',
    'check an output against its manifest: sizes, SHA-256, layout, dtypes, index, finite values',
    'weightsmith verify ./merged',
  )
    .argument('<out>', 'a folder written by merge')
    .option('--allow-non-finite', 'accept NaN and infinite values')
    .addOption(json())
    .action(run)
}

async function run(out: string, flags: Common & { allowNonFinite?: boolean }): Promise<void> {
  const progress = showProgress('verify', flags.json === true)
  beginWork()
  try {
    const finite = flags.allowNonFinite !== true
    const found = await verify(out, { finite, signal, onProgress: progress.show })
    progress.stop()
    print(found, text, flags)
  } finally {
    progress.stop()
  }
}

function text(report: VerifyReport): string {
  const hashed = report.files.filter((file) => file.hashed).length
  return (
    `${report.folder} matches its manifest: ${plural(report.files.length, 'file')}, ${hashed} of them checked by SHA-256, ` +
    `${plural(report.tensors, 'tensor')}.`
  )
}
