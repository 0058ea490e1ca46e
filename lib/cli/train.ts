/** `weightsmith train`. */

import { type Command, Option } from 'commander'
import type { Engine } from '../engine/engine.js'
import { trainPage } from '../report/train.js'
import { readLog, scheduleNames, type TrainingFile, type TrainingLogLine } from '../training/index.js'
import type { TrainOptions } from '../training/options.js'
import { type TrainForecast, type TrainReport, train } from '../training/train.js'
import type { DryRun } from '../util/dry_run.js'
import { bytes, count, milliseconds, parameters, plural, table } from './format.js'
import { signal } from './interrupt.js'
import { realNumber, seed, wholeNumber } from './options.js'
import { addLengths, addRun, addTargets, trainingData } from './training_options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addTrain(program: Command): void {
  const command = verb(
    program,
    'train',
    'train a model on examples, as a LoRA adapter or with all of its weights',
    'weightsmith train ./model ./adapter --data train.jsonl --rank 16 --epochs 3 --held-out test.jsonl',
  )
    .argument('<model>', 'a folder with a model, or org/name from the local cache')
    .argument('<out>', 'the folder to write: an adapter as PEFT saves one, or with --method full a checkpoint')
    .addOption(trainingData())
    .addOption(new Option('--method <what>', 'what is trained').choices(['lora', 'full']).default('lora'))
    .addOption(wholeNumber('--rank', 'rank of the adapter (default: 16)'))
    .addOption(realNumber('--alpha', 'the adapter counts alpha / rank times (default: twice the rank)'))
    .option('--rslora', 'the adapter counts alpha / √rank times')
    .option('--dora', 'train lengths of rows beside the factors (DoRA)')
    .addOption(realNumber('--dropout', 'share of what the adapter reads that is lost in each step (default: 0)'))
  addTargets(command)
    .option('--adapter <path>', 'go on from this adapter')
    .option('--fold <folder>', 'also write the model with the adapter folded in')
    .option('--dtype <type>', 'how factors are stored: float32, float16 or bfloat16 (default: float32)')
  addLengths(command)
    .option(
      '--teacher <path>',
      'a model whose probabilities are learned too, or the .safetensors that teach has written',
    )
    .addOption(realNumber('--teacher-share', "how much of the loss is the teacher's (default: 0.5)"))
    .addOption(
      new Option(
        '--teacher-mask <where>',
        'tokens where it is learned: those that predict a target (default: shifted), or that are one',
      ).choices(['shifted', 'own-label']),
    )
    .addOption(
      new Option('--teacher-loss <form>', "cross-entropy (default), or kl: less the teacher's entropy").choices([
        'cross-entropy',
        'kl',
      ]),
    )
    .addOption(
      new Option(
        '--normalise <by>',
        "a step's loss is divided by its targets (default), or is a mean of micro-batches",
      ).choices(['targets', 'micro-batches']),
    )
    .addOption(realNumber('--rate', 'highest learning rate (default: 2e-4, with --method full 2e-5)'))
    .addOption(
      new Option('--schedule <name>', 'how the learning rate goes on (default: linear)').choices(scheduleNames),
    )
    .addOption(realNumber('--warmup', 'steps in which the rate rises; below 1, a share of all (default: 0)'))
    .addOption(realNumber('--lowest', 'what the rate ends at, as a share of it (default: 0)'))
    .addOption(realNumber('--beta1', 'decay of the mean of the gradient (default: 0.9)'))
    .addOption(realNumber('--beta2', 'decay of the mean of its square (default: 0.999)'))
    .addOption(realNumber('--eps', 'added to the root of that mean (default: 1e-8)'))
    .addOption(realNumber('--decay', 'weight decay of matrices (default: 0)'))
    .addOption(realNumber('--clip', 'largest norm of the gradient; 0: any (default: 1)'))
    .addOption(seed('seed of the order of the data and of the first adapter'))
  addRun(command, 'examples whose loss is measured on the way').action(run)
}

type Flags = Common &
  Reported &
  Omit<TrainOptions, 'out' | 'data' | 'targets'> & { data: TrainingFile[]; targets?: string[] }

async function run(model: string, out: string, flags: Flags): Promise<void> {
  await runTraining('train', model, out, flags, ({ engine, options }) => train(engine, model, { ...flags, ...options }))
}

/** Flags that verbs which train share. */
export type TrainingFlags = Common & Reported & { log?: string | undefined; targets?: string[] }

/** Options that follow from flags in the same way for all of them. */
type Ready = Pick<TrainOptions, 'targets' | 'signal' | 'onProgress' | 'onLine'> & { out: string }

/** Trains, and says and shows what came of it. */
export async function runTraining(
  name: string,
  model: string,
  out: string,
  flags: TrainingFlags,
  learn: (work: { engine: Engine; options: Ready }) => Promise<TrainReport | DryRun<TrainForecast>>,
): Promise<void> {
  const { json, device, memory, report, targets, ...options } = flags
  const common = {
    ...(json && { json }),
    ...(device && { device }),
    ...(memory && { memory }),
    ...(report && { report }),
  }
  const collected: TrainingLogLine[] = []
  const done = await withEngine(name, common, (engine, progress) => {
    const ready: Ready = {
      targets: targets && patternOf(targets),
      ...{ out, signal, onProgress: progress.show, onLine: (line: TrainingLogLine) => collected.push(line) },
    }
    return learn({ engine, options: ready })
  })
  if (!('forecast' in done)) {
    await writeReport(common, async () => {
      const lines = options.log === undefined ? collected : await readLog(options.log)
      const facts = [
        ['method', done.method],
        ['trained', `${parameters(done.parameters)} parameters`],
        ...(options.log === undefined && done.resumedAfter !== undefined
          ? ([['shown', `what followed step ${done.resumedAfter}; a log would have kept the rest`]] as const)
          : []),
      ] as const
      return trainPage({ model, out, device: done.device, lines, data: done.data, facts })
    })
  }
  printResult(done, { report: text, forecast: forecastText }, common)
}

/** One word that is no plain name is a pattern, as PEFT takes it. */
function patternOf(targets: string[]): string | string[] {
  const [first = ''] = targets
  return targets.length === 1 && (first === 'all-linear' || !/^[\w.]+$/.test(first)) ? first : targets
}

function forecastText(forecast: TrainForecast): string {
  const { model, method, steps, epochs, examples, tokens, parameters: trained, deviceBytes, device } = forecast
  return (
    `Would train ${parameters(trained)} parameters of ${model} (${method}) in ${plural(steps, 'step')} ` +
    `(${epochs.toPrecision(3)} epochs of ${plural(examples, 'example')}, about ${count(tokens)} tokens), with ` +
    `${bytes(deviceBytes)} on ${device} and ${bytes(forecast.hostBytes)} beside it, in roughly ${milliseconds(forecast.milliseconds)}.${readsText(forecast)}`
  )
}

/** What does not stay on the device, where anything does not. */
function readsText({ bytesReadPerPass }: Pick<TrainForecast, 'bytesReadPerPass'>): string {
  if (bytesReadPerPass === 0) return ''
  return ` ${bytes(bytesReadPerPass)} of weights are read again for every micro-batch.`
}

function text(done: TrainReport): string {
  const { out, method, loss, heldOut, steps, tokens, folded, endedEarly, kept, resumedAfter } = done
  const lines = [
    `${out}: ${method === 'lora' ? `an adapter of ${plural(done.trained, 'module')}` : plural(done.trained, 'tensor')}, ` +
      `${parameters(done.parameters)} parameters, ${bytes(done.bytesWritten)}, after ${plural(steps, 'step')} and ` +
      `${count(tokens)} tokens in ${milliseconds(done.milliseconds)} (${done.tokensPerSecond.toFixed(0)} tokens/s) on ` +
      `${done.device}.${readsText(done)}`,
    `Loss ${loss.first.toFixed(4)} at the first step, ${loss.last.toFixed(4)} at the last.`,
  ]
  if (heldOut !== undefined) {
    lines.push(
      `Held out (${heldOut.file}): ${heldOut.first.toFixed(4)} before, ${heldOut.last.toFixed(4)} after; the best was ` +
        `${heldOut.best.toFixed(4)} after step ${heldOut.bestStep}. Kept: step ${kept}` +
        `${kept === 0 ? ', what it was before training' : ''}.`,
    )
  }
  if (endedEarly) lines.push('It ended early, as the loss held out was getting no better.')
  if (resumedAfter !== undefined) lines.push(`Resumed after step ${resumedAfter}.`)
  if (folded !== undefined) lines.push(`${folded}: the model with the adapter folded in.`)
  lines.push(
    '',
    table(
      ['data', 'examples', 'tokens', 'targets'],
      done.data.map((file) => [file.file, count(file.examples), count(file.tokens), count(file.targets)]),
    ),
  )
  for (const { file, truncated, empty, cutOff } of done.data) {
    if (truncated) lines.push(`${file}: ${count(truncated.count)} were cut at their end, first ${truncated.first}.`)
    if (empty) lines.push(`${file}: ${count(empty.count)} have nothing to predict, first ${empty.first}.`)
    if (cutOff)
      lines.push(`${file}: ${count(cutOff.count)} are too long for any of their answer, first ${cutOff.first}.`)
  }
  return lines.join('\n')
}
