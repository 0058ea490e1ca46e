/**
 * The log of a training run: a line of JSON for every step, and one for every time that data held out is measured. It
 * has nothing in it that differs between two runs of the same training, such as times: a run that goes on ends with the
 * same bytes as one that was never interrupted.
 */

import { open } from 'node:fs/promises'
import { readIfThere } from '../data/index.js'
import { codeOf, messageOf, WeightsmithError, writeFailed } from '../util/errors.js'

/** What a step did. */
export interface TrainingStepLine {
  /** From 1. */
  step: number
  /** From 0. */
  epoch: number
  /** Mean over the targets of the step, before its update, in nats. */
  loss: number
  /** Before clipping. */
  gradientNorm: number
  /** Learning rate. */
  rate: number
  tokens: number
  targets: number
  /** Of subnets, micro-batch by micro-batch. */
  subnets?: TrainingDetails[] | undefined
}

/** What a subnet of a micro-batch has learned. */
export interface TrainingDetails {
  depth: number
  width: number
  /** Mean over targets, in nats. */
  loss: number
  /** What it was multiplied by. */
  weight: number
  /** Of experts. */
  gates?: number[] | undefined
}

/** What came out on data held out, after a step. */
export interface TrainingHeldOutLine {
  /** From 1; 0 before the first step. */
  step: number
  /** Mean over the targets, in nats. */
  heldOutLoss: number
}

export type TrainingLogLine = TrainingStepLine | TrainingHeldOutLine

export interface TrainingLog {
  /** Of the run so far. */
  readonly lines: readonly TrainingLogLine[]
  write(line: TrainingLogLine): Promise<void>
  /** What was written is on disk: to be called before a checkpoint gets its name, which speaks of these lines. */
  sync(): Promise<void>
  close(): Promise<void>
}

export interface TrainingLogOptions {
  /** The step that a run goes on after: what the log says up to it stays, with what was measured up to `measured`. */
  after?: number | undefined
  /** The step after which data held out was last measured; nothing where it was not. */
  measured?: number | undefined
  /** A file that is there is replaced. */
  overwrite?: boolean | undefined
}

/**
 * Opens the log of a new run, or of one that goes on. Numbers of lines should be finite: JSON has no others. Throws
 * ERR_WEIGHTSMITH_OUTPUT_EXISTS where a new run would replace a file, _RESUME for a file that is not the log of the
 * steps up to `after`, and _IO_READ, _IO_WRITE or _DISK_FULL; so do `write` and `sync`.
 */
export async function openLog(
  file: string,
  { after, measured = -1, overwrite = false }: TrainingLogOptions = {},
): Promise<TrainingLog> {
  const kept = after === undefined ? { lines: [], bytes: 0 } : linesUpTo({ after, measured }, await textOf(file), file)
  const failed = (cause: unknown) => {
    if (codeOf(cause) !== 'EEXIST') throw writeFailed(file, cause)
    const message = `The log ${file} already exists; choose another name, or replace it with overwrite.`
    throw new WeightsmithError('ERR_WEIGHTSMITH_OUTPUT_EXISTS', message, { cause, file })
  }
  const handle = await open(file, after !== undefined ? 'a' : overwrite ? 'w' : 'ax').catch(failed)
  if (after !== undefined) await handle.truncate(kept.bytes).catch(failed)
  const lines: TrainingLogLine[] = kept.lines
  return {
    lines,
    async write(line) {
      await handle.appendFile(`${JSON.stringify(line)}\n`).catch(failed)
      lines.push(line)
    },
    sync: () => handle.sync().catch(failed),
    close: () => handle.close(),
  }
}

/** The lines of a log; one at its end that was not written whole is left out. Throws as `openLog` does. */
export async function readLog(file: string): Promise<TrainingLogLine[]> {
  return parsedLines(await textOf(file), file)
}

/** The lines that belong to the steps up to one, and their bytes. */
function linesUpTo(
  { after, measured }: { after: number; measured: number },
  text: string,
  file: string,
): { lines: TrainingLogLine[]; bytes: number } {
  const all = parsedLines(text, file)
  const end = all.findIndex((line) => line.step > ('loss' in line ? after : measured))
  const lines = end < 0 ? all : all.slice(0, end)
  const steps = lines.flatMap((line) => ('loss' in line ? [line.step] : []))
  if (steps.length !== after || steps.some((step, i) => step !== i + 1)) {
    throw notThatLog(
      file,
      `it should have one line for each of the steps 1 to ${after}, but has ${steps.length} lines of steps up to there`,
    )
  }
  const texts = text.split('\n').slice(0, lines.length)
  return { lines, bytes: texts.reduce((sum, line) => sum + Buffer.byteLength(line) + 1, 0) }
}

function parsedLines(text: string, file: string): TrainingLogLine[] {
  return text
    .split('\n')
    .slice(0, -1)
    .map((line, i) => {
      try {
        const value = JSON.parse(line) as Partial<TrainingStepLine & TrainingHeldOutLine> | null
        if (typeof value?.step === 'number' && typeof (value.loss ?? value.heldOutLoss) === 'number') {
          return value as TrainingLogLine
        }
        throw new Error('it has no step with a loss')
      } catch (cause) {
        throw notThatLog(file, `line ${i + 1} is not one of a log: ${messageOf(cause)}`, cause)
      }
    })
}

async function textOf(file: string): Promise<string> {
  const text = await readIfThere(file)
  if (text !== undefined) return text
  throw notThatLog(file, 'there is no such file')
}

function notThatLog(file: string, why: string, cause?: unknown): WeightsmithError {
  const message = `The log ${file} is not that of the training so far: ${why}.`
  return new WeightsmithError('ERR_WEIGHTSMITH_RESUME', message, { cause, file })
}
