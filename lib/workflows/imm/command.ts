/** Commands of others: run without a shell, their output kept in a file, its last lines in the message of a failure. */

import { spawn } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { aborted, WeightsmithError } from '../../util/errors.js'
import type { ImmCommand } from './config.js'

const tailLines = 12
const tailBytes = 8192

/** Runs a command in a folder. Throws ERR_WEIGHTSMITH_COMMAND where it cannot be started or does not end with 0. */
export async function runCommand(
  what: string,
  command: ImmCommand,
  { places, folder, log, signal }: { places: Record<string, string>; folder: string; log: string; signal: AbortSignal },
): Promise<void> {
  const words = command.map((word) => word.replace(/\{(\w+)\}/g, (all, name: string) => places[name] ?? all))
  const [file = '', ...args] = words
  const output = createWriteStream(log)
  let tail = ''
  try {
    await new Promise<void>((done, reject) => {
      const failed = (how: string, cause?: unknown) => {
        const lines = tail.trimEnd().split('\n').slice(-tailLines).join('\n')
        const said = lines === '' ? 'It has printed nothing.' : `It ended with:\n${lines}`
        const message = `The command of ${what}, ${words.join(' ')}, ${how}. All it has printed is in ${log}. ${said}`
        reject(new WeightsmithError('ERR_WEIGHTSMITH_COMMAND', message, { cause, file: log }))
      }
      const child = spawn(file, args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'], signal, killSignal: 'SIGTERM' })
      for (const stream of [child.stdout, child.stderr]) {
        stream.on('data', (chunk: Buffer) => {
          output.write(chunk)
          tail = (tail + chunk.toString('utf8')).slice(-tailBytes)
        })
      }
      child.on('error', (cause) => {
        if (signal.aborted) reject(aborted(signal, 'The run'))
        else failed(`cannot be started (${cause.message})`, cause)
      })
      child.on('close', (code, killed) => {
        if (signal.aborted) reject(aborted(signal, 'The run'))
        else if (code === 0) done()
        else failed(killed === null ? `ended with code ${code}` : `was ended by ${killed}`)
      })
    })
  } finally {
    output.end()
  }
}
