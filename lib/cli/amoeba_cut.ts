/** `weightsmith amoeba cut`. */

import { type Command, Option } from 'commander'
import { wrongOption } from '../util/errors.js'
import {
  type AmoebaCutForecast,
  type AmoebaCutOptions,
  type AmoebaCutReport,
  amoebaCut,
  type CutShape,
  type CutShapeForecast,
} from '../workflows/amoeba/cut.js'
import { bytes, milliseconds, parameters, percent, plural, table } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, json, list, memory, overwrite, wholeNumber } from './options.js'
import { type Common, printResult, verb, withEngine } from './verb.js'

export function addAmoebaCut(amoeba: Command): void {
  verb(
    amoeba,
    'cut',
    'write a shape of a model as a checkpoint of its own, or many shapes in one read of it',
    'weightsmith amoeba cut ./model ./small --strategy s.strategy --adapter ./adapter --depth 24 --width 0.875',
  )
    .argument('<model>', 'the model that the strategy is of')
    .argument('<out>', 'the folder to write; of several shapes it gets a folder each, DEPTHxWIDTH')
    .requiredOption('--strategy <file>', 'strategy file of amoeba strategy or amoeba import')
    .option('--adapter <folder>', 'a LoRA trained on the model, which is folded into it')
    .addOption(wholeNumber('--depth', 'number of blocks that stay (default: all)'))
    .addOption(
      new Option('--width <ratio>', 'a width of the strategy, such as 0.875 or 7/8 (default: 1)').argParser(ratio),
    )
    .option('--grid', 'write every pair of --depths and --widths')
    .addOption(list('--depths <depths...>', 'of a grid: numbers and ranges, such as 8..5 (default: all)', depths))
    .addOption(list('--widths <ratios...>', 'of a grid: ratios, such as 1 7/8 (default: all)', widths))
    .addOption(
      new Option('--layout <how>', 'write smaller tensors (compact), or keep shapes and write zeros (masked)')
        .choices(['compact', 'masked'])
        .default('compact'),
    )
    .option('--uniform', 'the same widths in every layer, so that transformers and others load it; needs --scores')
    .option('--scores <file>', 'of --uniform: score file from weightsmith score --methods flap')
    .option('--no-bias', 'add no biases that compensate for what goes')
    .option('--data <file>', 'lines to measure the loss of the result on, with compensation and without')
    .addOption(memory())
    .addOption(device())
    .addOption(dryRun('check everything and show the shapes, write nothing'))
    .option('--resume', 'continue an interrupted run; start from scratch if there is none')
    .option('--journal-every <size>', 'record progress for --resume every so many bytes written (default: 256MiB)')
    .addOption(overwrite('replace existing output folders'))
    .addOption(json())
    .action(run)
}

type Flags = Common & { grid?: boolean } & Omit<AmoebaCutOptions, 'out'>

async function run(model: string, out: string, { json, device, memory, grid, ...flags }: Flags): Promise<void> {
  const common: Common = { json, device, memory } as Common
  if (grid !== true && (flags.depths ?? flags.widths) !== undefined) {
    throw wrongOption('--depths and --widths', 'those of a grid (--grid)', flags.depths ?? flags.widths)
  }
  // A grid without numbers is of all that the strategy has.
  const shapes = grid === true && flags.depths === undefined && flags.widths === undefined ? { all: true } : {}
  const done = await withEngine('cut', common, (engine, progress) =>
    amoebaCut(engine, model, { ...flags, ...shapes, out, signal, onProgress: progress.show }),
  )
  printResult(done, { report: text, forecast: forecastText }, common)
}

/** `0.875` or `7/8`. */
function ratio(text: string): number {
  const [, over = '', under = '1'] = /^(\d+(?:\.\d+)?)(?:\/(\d+))?$/.exec(text) ?? []
  const value = over === '' ? Number.NaN : Number(over) / Number(under)
  if (Number.isFinite(value)) return value
  throw wrongOption('--width', 'a ratio such as 0.875 or 7/8', text)
}

const words = (word: string) => word.split(',').filter((part) => part !== '')
const widths = (word: string) => words(word).map(ratio)

/** `8..5`, from either end. */
function depths(word: string): number[] {
  return words(word).flatMap((part) => {
    const [, first = '', last = first] = /^(\d+)(?:\.\.(\d+))?$/.exec(part) ?? []
    const [from, to] = [Number(first), Number(last)]
    if (first === '' || Math.abs(from - to) > 1e4)
      throw wrongOption('--depths', 'numbers and ranges such as 8..5', word)
    return Array.from({ length: Math.abs(from - to) + 1 }, (_, i) => from + Math.sign(to - from) * i)
  })
}

function forecastText(forecast: AmoebaCutForecast): string {
  const { model, shapes, bytesWritten } = forecast
  return [
    `Would cut ${plural(shapes.length, 'shape')} from ${model}: ${bytes(bytesWritten)} would be written.`,
    shapesText(forecast, shapes),
    ...notesOf(shapes),
  ].join('\n')
}

function text(report: AmoebaCutReport): string {
  const { model, shapes, bytesWritten, bytesRead, adapter } = report
  const resumed = shapes.reduce((sum, shape) => sum + shape.resumed, 0)
  return [
    `Cut ${plural(shapes.length, 'shape')} from ${model}${adapter === undefined ? '' : ` with ${adapter}`}.`,
    shapesText(report, shapes),
    ...shapes.flatMap(lossText),
    ...notesOf(shapes),
    ...(resumed ? [`Resumed: ${plural(resumed, 'tensor')} were already written by an earlier run.`] : []),
    `Read ${bytes(bytesRead)}, wrote ${bytes(bytesWritten)}, took ${milliseconds(report.milliseconds)}.`,
  ].join('\n')
}

function shapesText(whole: AmoebaCutForecast, shapes: readonly CutShapeForecast[]): string {
  const rows = shapes.map(({ depth, width, parameters: own, bytesWritten, blocks, out }) => [
    String(depth),
    String(width),
    parameters(own),
    percent(own / whole.parameters),
    bytes(bytesWritten),
    rangesOf(blocks),
    out,
  ])
  return table(['depth', 'width', 'parameters', 'of all', 'size', 'blocks', 'folder'], rows)
}

function lossText({ depth, width, loss, maskedLoss, uncompensatedLoss, logitsDifference }: CutShape): string[] {
  if (loss === undefined || maskedLoss === undefined) return []
  const plain = uncompensatedLoss === undefined ? '' : `, ${uncompensatedLoss.toFixed(4)} without compensation`
  return [
    `${depth} x ${width}: loss ${loss.toFixed(4)}${plain}; under masks ${maskedLoss.toFixed(4)}, logits differ by ` +
      `${(logitsDifference ?? 0).toExponential(1)} of the largest.`,
  ]
}

/** Each once. */
const notesOf = (shapes: readonly CutShapeForecast[]) => [...new Set(shapes.flatMap(({ notes }) => notes))]

/** `0-4 7`. */
function rangesOf(blocks: readonly number[]): string {
  const runs: [number, number][] = []
  for (const block of blocks) {
    const last = runs.at(-1)
    if (last !== undefined && last[1] + 1 === block) last[1] = block
    else runs.push([block, block])
  }
  return runs.map(([first, last]) => (first === last ? String(first) : `${first}-${last}`)).join(' ')
}
