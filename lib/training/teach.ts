/** `teach`: writes what a model says of training data, so that a student can learn it without the model at hand. */

import { stat } from 'node:fs/promises'
import { checkDisk } from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import { lossRowsOf, type TeacherMask, TrainableModel } from '../runtime/index.js'
import { checkpointOf, modelOf } from '../runtime/open_model.js'
import type { DryRun } from '../util/dry_run.js'
import { misuse, throwIfAborted, WeightsmithError, wrongOption } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'
import { defaultTokens, planBatches } from './batches.js'
import { readTrainingData, type TrainingFileReport } from './examples.js'
import { isTeacherFile } from './teacher.js'
import { TeacherWriter, taughtRows, teacherFileBytes } from './teacher_file.js'

export interface TeachOptions {
  /** Files of data, those that the student is trained on and in the same order. */
  data: string | readonly string[]
  /** The file to write; its name ends with .safetensors. Not needed with `dryRun`. */
  out?: string | undefined
  /** Logits that are kept of a token, the largest ones. Defaults to 64; the vocabulary: all. */
  top?: number | undefined
  /** As the student is trained. Default to answer, the context of the model (at most `tokens`), and shifted. */
  loss?: 'answer' | 'all' | undefined
  maxLength?: number | undefined
  mask?: TeacherMask | undefined
  /** Most tokens that go through the model at a time. Defaults to 2,048. */
  tokens?: number | undefined
  overwrite?: boolean | undefined
  /** Check everything and say what it takes, but write nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface TeachForecast {
  model: string
  examples: number
  tokens: number
  /** Tokens of which something is said. */
  rows: number
  /** Logits of each. */
  top: number
  device: string
  deviceBytes: number
  bytesWritten: number
  data: TrainingFileReport[]
}

export interface TeachReport extends TeachForecast {
  out: string
  milliseconds: number
}

const what = 'The teaching'

/**
 * Writes a teacher's file, of which docs/guide/training.md says the form. Throws ERR_WEIGHTSMITH_ARGUMENT for an option
 * out of its range, _OUTPUT_EXISTS, _OUT_OF_MEMORY where the model does not fit, and what `readTrainingData` throws.
 */
export function teach(
  engine: Engine,
  model: string,
  options: TeachOptions & { dryRun: true },
): Promise<DryRun<TeachForecast>>
export function teach(
  engine: Engine,
  model: string,
  options: TeachOptions & { dryRun?: false | undefined },
): Promise<TeachReport>
export function teach(
  engine: Engine,
  model: string,
  options: TeachOptions,
): Promise<TeachReport | DryRun<TeachForecast>>
export async function teach(
  engine: Engine,
  model: string,
  options: TeachOptions,
): Promise<TeachReport | DryRun<TeachForecast>> {
  const begin = performance.now()
  const { out, mask = 'shifted', loss = 'answer', tokens = defaultTokens, overwrite = false, signal } = options
  const { dryRun = false, onProgress } = options
  if (mask !== 'shifted' && mask !== 'own-label') throw wrongOption('the mask', 'shifted or own-label', mask)
  if (out === undefined && !dryRun) throw misuse('Pass the file to write as out.')
  if (out !== undefined && !isTeacherFile(out)) throw wrongOption('out', 'a name that ends with .safetensors', out)
  if (out !== undefined && !dryRun && !overwrite && (await stat(out).catch(() => undefined)) !== undefined) {
    const message = `The output ${out} is there already; choose another name or ask to overwrite it.`
    throw new WeightsmithError('ERR_WEIGHTSMITH_OUTPUT_EXISTS', message, { file: out })
  }
  const checkpoint = await checkpointOf(engine, model)
  const { spec } = modelOf(engine, checkpoint, {})
  const { vocabulary } = spec
  const { maxLength = Math.min(tokens, spec.context), top = Math.min(64, vocabulary) } = options
  if (!(Number.isSafeInteger(top) && top >= 1 && top <= vocabulary)) {
    throw wrongOption('top', `a whole number from 1 to the vocabulary, ${vocabulary}`, top)
  }
  const files = [options.data].flat().map((file) => ({ file }))
  const { sources, reports } = await readTrainingData({ spec, checkpoint }, files, {
    loss,
    maxLength,
    signal,
    onProgress,
  })
  const subject = { sources, mask, vocabulary }
  const rows = taughtRows(subject)
  const plan = { tokens, tapes: 1 }
  const { bytes } = await TrainableModel.forecast((work) => engine.use(work), checkpoint, plan)
  const sum = (of: (report: TrainingFileReport) => number) => reports.reduce((total, report) => total + of(report), 0)
  const forecast: TeachForecast = {
    ...{ model, examples: sum(({ examples }) => examples), tokens: sum((report) => report.tokens), rows, top },
    ...{ device: engine.device.name, deviceBytes: bytes, bytesWritten: teacherFileBytes(rows, top, vocabulary) },
    data: reports,
  }
  if (dryRun || out === undefined) return { forecast }
  await checkDisk(out, forecast.bytesWritten)
  const check = () => throwIfAborted(signal, what)
  const trainable = await TrainableModel.open((work) => engine.use(work), checkpoint, { ...plan, check })
  let bytesWritten: number
  try {
    const writer = await TeacherWriter.open(out, subject, { top, model })
    try {
      const batch = forecast.examples
      const { microBatches } = planBatches(sources, { batch, tokens, seed: 0, shuffle: false }).stepAt(0)
      let done = 0
      for (const some of microBatches) {
        check()
        const asked = some.flatMap((example) => lossRowsOf(example, mask).map(({ taught }) => taught))
        let row = 0
        for await (const logits of trainable.logits(some, mask)) {
          for (let at = 0; at < logits.length; at += vocabulary) {
            if (asked[row++]) await writer.write(logits.slice(at, at + vocabulary))
          }
        }
        done += some.length
        onProgress?.({ phase: 'teach', done, total: batch, unit: 'examples' })
      }
      await writer.finish()
      bytesWritten = writer.size
    } catch (error) {
      await writer.discard()
      throw error
    }
  } finally {
    await trainable.close()
  }
  return { ...forecast, bytesWritten, out, milliseconds: performance.now() - begin }
}
