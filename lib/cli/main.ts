#!/usr/bin/env node
/**
 * The command line. Results go to stdout (one JSON document with --json), everything else to stderr. Exit codes:
 * 0 done, 1 failed, 2 misuse, 130 interrupted (SIGINT), 143 terminated (SIGTERM).
 */

import { CommanderError } from 'commander'
import { codeOf, messageOf, WeightsmithError } from '../util/errors.js'
import { printable } from './format.js'
import { interruptedBy, listenForInterruptions } from './interrupt.js'
import { makeProgram } from './program.js'

const misuses: ReadonlySet<string> = new Set(['ERR_WEIGHTSMITH_ARGUMENT', 'ERR_WEIGHTSMITH_RECIPE'])

/** Prints the error and returns the exit code. */
function fail(error: unknown): number {
  if (error instanceof CommanderError) return failMisuse(error)
  const code = codeOf(error)
  const interrupted = code === 'ERR_WEIGHTSMITH_ABORTED' ? interruptedBy() : undefined
  const message =
    interrupted === undefined ? messageOf(error) : 'Interrupted. No partial output was left at the destination.'
  const { partial, problems } = error instanceof WeightsmithError ? error : {}
  const resume = partial === undefined ? undefined : resumeCommand()
  printError({ code: code ?? 'ERR_WEIGHTSMITH_INTERNAL', message, problems, partial, resume })
  const shownCode = code === undefined || interrupted !== undefined ? '' : ` [${code}]`
  process.stderr.write(`weightsmith: ${printable(message)}${shownCode}\n`)
  if (resume !== undefined) {
    process.stderr.write(`weightsmith: Finished work is kept in ${partial}. To continue: ${resume}\n`)
  }
  if (code === undefined && error instanceof Error && process.env.NODE_DEBUG?.includes('weightsmith')) {
    process.stderr.write(`${error.stack}\n`)
  }
  return interrupted ?? (code !== undefined && misuses.has(code) ? 2 : 1)
}

/** Unknown words and options, which commander has printed already. */
function failMisuse({ exitCode, message }: CommanderError): number {
  if (exitCode === 0) return 0
  printError({ code: 'ERR_WEIGHTSMITH_ARGUMENT', message: message.replace(/^error: /, '') })
  return 2
}

function printError(error: { code: string; message: string } & Record<string, unknown>): void {
  if (process.argv.includes('--json')) process.stdout.write(`${JSON.stringify({ error }, null, 2)}\n`)
}

/** The command that was given, with --resume, for a POSIX shell. */
function resumeCommand(): string {
  const given = process.argv.slice(2)
  const words = given.includes('--resume') ? given : [...given, '--resume']
  const quoted = words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
  return [process.env.npm_command === 'exec' ? 'npx weightsmith' : 'weightsmith', ...quoted].join(' ')
}

listenForInterruptions()
// A reader that has seen enough (`| head`) is no failure.
process.stdout.on('error', (error) => process.exit(codeOf(error) === 'EPIPE' ? process.exitCode : 1))

makeProgram()
  .parseAsync()
  .catch((error: unknown) => {
    process.exitCode = fail(error)
  })
