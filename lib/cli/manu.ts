/** `weightsmith manu`. */

import { type Command, Option } from 'commander'
import { manuPage } from '../report/index.js'
import { wrongOption } from '../util/errors.js'
import {
  kinds,
  type Layers,
  type ManuForecast,
  type ManuOptions,
  type ManuReport,
  manu,
  manuModes,
  manuRows,
  manuStatistics,
  meanOf,
  parts,
  sets,
} from '../workflows/manu/index.js'
import { bytes, milliseconds, plural, table } from './format.js'
import { signal } from './interrupt.js'
import {
  device,
  dryRun,
  images,
  json,
  list,
  memory,
  overwrite,
  real,
  realNumber,
  report,
  seed,
  wholeNumber,
  wholeNumbers,
} from './options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

const percent = (share: number) => (100 * share).toFixed(1)
const shownModules = 40

export function addManu(program: Command): void {
  verb(
    program,
    'manu',
    'unlearn a data set without training, by zeroing the neurons that respond to it (MANU)',
    'weightsmith manu ./llava ./unlearned --forget forget.jsonl --retain retain.jsonl --sweep 1 2 3 5 --max-retain-drop 1',
  )
    .argument('<model>', 'a folder or org/name in the local cache')
    .argument('[out]', 'the folder to write; with --sweep, a folder of checkpoints (default: none, only evaluate)')
    .requiredOption('--forget <files...>', '.jsonl files with examples to forget; those with an "image" are multimodal')
    .requiredOption('--retain <files...>', '.jsonl files with examples to retain')
    .option('--utility <files...>', '.jsonl files with further examples to evaluate before and after')
    .addOption(images('the folder of each data file'))
    .addOption(new Option('--mode <name>', 'how neurons are scored').choices(manuModes).default('code'))
    .addOption(
      realNumber('--alpha', 'percentage of neurons to zero, in the text model and in the vision encoder')
        .default(2)
        .conflicts('sweep'),
    )
    .addOption(
      list('--sweep <numbers...>', 'several values of alpha, such as 1 2 3 5 10, from one measurement', (word) => [
        real('sweep', word),
      ]),
    )
    .addOption(
      realNumber(
        '--max-retain-drop',
        'write only the largest alpha that lowers exact match on retain by at most this many percentage points',
      ),
    )
    .option('--layers <which...>', 'last3, all, or numbers such as 0-3 7 (default: last3; all in paper mode)')
    .addOption(
      new Option(
        '--weights <pairs...>',
        'weights of the statistics in the score, such as abs=2 freq=0 var=2 rms=2',
      ).argParser(withWeight),
    )
    .addOption(realNumber('--tau', 'activation threshold on |z|').default(0.1))
    .addOption(
      new Option('--statistics <name>', 'aggregate over all tokens (stream), or by batch as the published code does')
        .choices(manuStatistics)
        .default('stream'),
    )
    .addOption(wholeNumber('--batch', 'lines per batch, with batch statistics').default(4))
    .addOption(wholeNumber('--iterations', 'number of rounds; each measures again and zeroes alpha more').default(1))
    .option('--compat-pool-layers', 'pool the statistics of all layers by kind of module, as the published code does')
    .option('--compact', 'remove neurons from the tensors instead of zeroing them')
    .option('--compare', 'also evaluate with as many random neurons and with those of the smallest weights zeroed')
    .option('--no-evaluate', 'skip the evaluation before and after')
    .option('--cache <file>', 'cache of the measurements: read if it exists, written otherwise')
    .addOption(wholeNumber('--limit', 'number of examples of each set to evaluate, chosen by the seed (default: all)'))
    .addOption(seed('random seed of the samples and of the random neurons'))
    .addOption(report())
    .addOption(memory())
    .addOption(device())
    .addOption(dryRun())
    .addOption(overwrite())
    .addOption(json())
    .action(run)
}

type Flags = Common &
  Reported &
  Omit<ManuOptions, 'layers'> & { sweep?: number[]; layers?: string[]; compatPoolLayers?: boolean }

async function run(
  model: string,
  out: string | undefined,
  { sweep, layers, compatPoolLayers, ...flags }: Flags,
): Promise<void> {
  const found = await withEngine('manu', flags, (engine, progress) =>
    manu(engine, model, {
      ...flags,
      out,
      alpha: sweep ?? flags.alpha,
      layers: layers && layersOf(layers),
      poolLayers: compatPoolLayers,
      signal,
      onProgress: progress.show,
    }),
  )
  if (!('forecast' in found)) await writeReport(flags, () => manuPage(found, manuRows(found)))
  printResult(found, { report: text, forecast: forecastText }, flags)
}

function layersOf(words: readonly string[]): Layers {
  const [first] = words
  if (words.length === 1 && (first === 'all' || first === 'last3')) return first
  return words.flatMap(wholeNumbers('layers'))
}

function withWeight(word: string, before: Record<string, number> = {}): Record<string, number> {
  const [, name = '', value = ''] = /^(\w+)=(.+)$/.exec(word) ?? []
  if (parts.some((part) => part === name) && Number.isFinite(Number(value))) return { ...before, [name]: Number(value) }
  throw wrongOption('weights', `such as abs=2 rms=1 with ${parts.join(', ')}`, word)
}

function forecastText(forecast: ManuForecast): string {
  return [
    `Would score ${subject(forecast)}: about ${milliseconds(forecast.milliseconds)}, ${place(forecast)}.`,
    linesText(forecast),
    ...forecast.notes.map((note) => `Note: ${note}`),
  ].join('\n')
}

function subject({ modules, model, mode }: ManuForecast): string {
  const neurons = modules.reduce((sum, module) => sum + module.neurons, 0)
  return `${plural(neurons, 'neuron')} of ${plural(modules.length, 'module')} of ${model} in ${mode} mode`
}

function place({ partitions: count, deviceBytes, device }: ManuForecast): string {
  return `${count === 1 ? 'the model' : `${count} partitions in turn, each`} within ${bytes(deviceBytes)} of ${device}`
}

function linesText({ streams }: ManuForecast): string {
  const measured = streams.map(({ set, kind, lines, tokens }) => `${set} ${kind} ${lines} (${plural(tokens, 'token')})`)
  return `Lines: ${measured.join(', ')}.`
}

function text(report: ManuReport): string {
  const { choices, before, modules, allowedAlpha } = report
  const lines = [
    `Scored ${subject(report)}; measured in ${milliseconds(report.timings.measure)}, ${place(report)}.`,
    linesText(report),
  ]
  if (report.limited > 0) {
    lines.push(`${plural(report.limited, 'neuron')} hardly respond to the retain set; eps decides their score.`)
  }
  lines.push(
    '',
    table(
      ['alpha', 'tower', 'of', 'chosen', 'threshold', 'next'],
      choices.flatMap(({ alpha, towers }) =>
        towers.map(({ tower, total, selected, threshold, next }) => [
          ...[String(alpha), tower, String(total), String(selected)],
          ...[threshold, next].map((score) => (Number.isFinite(score) ? score.toPrecision(5) : '-')),
        ]),
      ),
    ),
    '',
    table(
      ['layer', 'module', 'neurons', ...choices.map(({ alpha }) => `at ${alpha} %`)],
      modules
        .slice(0, shownModules)
        .map(({ layer, name, neurons: count, selected }) => [
          ...[String(layer), name, String(count)],
          ...selected.map(String),
        ]),
    ),
  )
  if (modules.length > shownModules) lines.push(`... and ${modules.length - shownModules} more (--json has all).`)
  if (before !== undefined) lines.push('', answersTable(report))
  if (allowedAlpha !== undefined) {
    lines.push(
      allowedAlpha === null
        ? 'No alpha keeps retain within the limit; nothing was written.'
        : `The largest alpha that keeps retain within the limit is ${allowedAlpha}.`,
    )
  }
  for (const { alpha, out } of choices) if (out !== undefined) lines.push(`Wrote ${out}, without ${alpha} %.`)
  for (const note of report.notes) lines.push(`Note: ${note}`)
  return lines.join('\n')
}

/** Exact answers in per cent, and losses. */
function answersTable(report: ManuReport): string {
  const columns = sets.flatMap((set) => kinds.map((kind) => ({ set, kind })))
  const asked = columns.filter(({ set, kind }) => report.before?.some((own) => own.set === set && own.kind === kind))
  return table(
    ['exact answers, % (loss)', ...asked.map(({ set, kind }) => `${set} ${kind}`), 'balance'],
    manuRows(report).map(({ name, answers }) => [
      name,
      ...asked.map(({ set, kind }) => {
        const own = answers.find((one) => one.set === set && one.kind === kind)
        return own === undefined ? '-' : `${percent(own.accuracy)} (${own.nll.toPrecision(3)})`
      }),
      percent(meanOf(answers, 'retain') - meanOf(answers, 'forget')),
    ]),
  )
}
