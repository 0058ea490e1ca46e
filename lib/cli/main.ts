#!/usr/bin/env node
/**
 * The command line. Results go to stdout (one JSON document with --json), everything else to stderr. Exit codes:
 * 0 done, 1 failed, 2 misuse, 130 interrupted (SIGINT), 143 terminated (SIGTERM).
 */

import { Command, CommanderError } from 'commander'
import { codeOf, messageOf, WeightsmithError } from '../errors.js'
import { version } from '../version.js'
import { addBatch } from './batch.js'
import { addBench } from './bench.js'
import { addDiff } from './diff.js'
import { addDoctor } from './doctor.js'
import { addEval } from './eval.js'
import { addExplain } from './explain.js'
import { addGenerate } from './generate.js'
import { addImm } from './imm.js'
import { addInspect } from './inspect.js'
import { interruptedBy, listenForInterruptions } from './interrupt.js'
import { addManu } from './manu.js'
import { addMerge } from './merge.js'
import { addPrune } from './prune.js'
import { addSchema } from './schema.js'
import { addScore } from './score.js'
import { addVerify } from './verify.js'

const misuses: ReadonlySet<string> = new Set(['ERR_WEIGHTSMITH_ARGUMENT', 'ERR_WEIGHTSMITH_RECIPE'])

function main(): Promise<Command> {
  const program = new Command('weightsmith')
    .description('Merge, run, score, prune and check checkpoints of language models.')
    .version(version)
    .exitOverride()
    .showHelpAfterError('(add --help for the options)')
    .addHelpText('after', '\nExit codes: 0 done, 1 failed, 2 misuse, 130 interrupted, 143 terminated.')
  addMerge(program)
  addBatch(program)
  addExplain(program)
  addInspect(program)
  addDiff(program)
  addGenerate(program)
  addEval(program)
  addScore(program)
  addImm(program)
  addPrune(program)
  addManu(program)
  addVerify(program)
  addDoctor(program)
  addBench(program)
  addSchema(program)
  return program.parseAsync()
}

/** Tells what went wrong, and gives the exit code. */
function fail(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  const code = codeOf(error)
  const interrupted = code === 'ERR_WEIGHTSMITH_ABORTED' ? interruptedBy() : undefined
  const message = interrupted === undefined ? messageOf(error) : 'Interrupted; nothing unfinished has its final name.'
  const { partial, problems } = error instanceof WeightsmithError ? error : {}
  const resume = partial === undefined ? undefined : resumeCommand()
  if (process.argv.includes('--json')) {
    const report = { code: code ?? 'ERR_WEIGHTSMITH_INTERNAL', message, problems, partial, resume }
    process.stdout.write(`${JSON.stringify({ error: report }, null, 2)}\n`)
  }
  process.stderr.write(
    `weightsmith: ${message}${code === undefined || interrupted !== undefined ? '' : ` [${code}]`}\n`,
  )
  if (resume !== undefined) {
    process.stderr.write(`weightsmith: What is finished is kept in ${partial}; to continue: ${resume}\n`)
  }
  if (code === undefined && error instanceof Error && process.env.NODE_DEBUG?.includes('weightsmith')) {
    process.stderr.write(`${error.stack}\n`)
  }
  return interrupted ?? (code !== undefined && misuses.has(code) ? 2 : 1)
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
process.stdout.on('error', (error) => process.exit(codeOf(error) === 'EPIPE' ? 0 : 1))

main().catch((error: unknown) => {
  process.exitCode = fail(error)
})
