/** `weightsmith lora fold`. */

import type { Command } from 'commander'
import {
  type FoldForecast,
  type FoldOptions,
  type FoldReport,
  foldAdapters,
  type WeightedAdapter,
} from '../adapters/fold.js'
import { checkFold, type FoldCheck } from '../eval/check_fold.js'
import { bytes, count, milliseconds, percent, plural } from './format.js'
import { signal } from './interrupt.js'
import { checksum, device, dryRun, dtype, json, list, memory, overwrite, shardSize } from './options.js'
import { type Common, printResult, verb, withEngine } from './verb.js'

export function addLoraFold(lora: Command): void {
  verb(
    lora,
    'fold',
    'write a model with the changes of adapters in its weights',
    'weightsmith lora fold ./model ./folded --adapter ./math ./style=0.5',
  )
    .argument('<model>', 'the model that the adapters were trained on')
    .argument('<out>', 'the folder to write')
    .addOption(
      list(
        '--adapter <path=weight...>',
        'adapters in order, each with its weight (default: 1; -1 takes it back)',
        (word) => [weighted(word)],
      ).makeOptionMandatory(),
    )
    .addOption(dtype('that of the model'))
    .option('--untie', 'store embedding and head apart where an adapter changes one of two that are one table')
    .option('--resize', "let the vocabulary grow to the rows of an adapter's tables")
    .addOption(shardSize())
    .addOption(memory())
    .addOption(device())
    .addOption(dryRun())
    .addOption(overwrite('replace an existing output folder, and discard an unfinished one'))
    .option('--resume', 'continue an interrupted run; start from scratch if there is none')
    .option('--journal-every <size>', 'record progress for --resume every so many bytes written (default: 256MiB)')
    .addOption(checksum())
    .option(
      '--check [text]',
      'run base with adapters and the folded model on a line of text, and fail if their logits differ by more than the rounding',
    )
    .option('--check-finite', 'fail if the result has NaN or infinite values')
    .addOption(json())
    .action(run)
}

type Flags = Common & { check?: string | true } & { adapter: WeightedAdapter[] } & Omit<FoldOptions, 'out' | 'adapters'>

async function run(model: string, out: string, { json, device, adapter, check, ...flags }: Flags): Promise<void> {
  const common: Common = { ...(json && { json }), ...(device && { device }) }
  const done = await withEngine('fold', { ...common, ...memoryOf(flags) }, async (engine, progress) => {
    const options = { ...flags, adapters: adapter, out, signal }
    const folded = await foldAdapters(engine, model, { ...options, onProgress: progress.show })
    if (check === undefined || 'forecast' in folded) return folded
    const text = check === true ? undefined : check
    return { ...folded, check: await checkFold(engine, model, folded.out, { ...options, text }) }
  })
  printResult(done, { report: reportText, forecast: forecastText }, common)
}

const memoryOf = ({ memory }: Pick<FoldOptions, 'memory'>) => (typeof memory === 'string' ? { memory } : {})

/** `path=0.7`; a word without a number behind the last `=` is a path. */
export function weighted(word: string): WeightedAdapter {
  const [, adapter = word, text = ''] = /^(.+)=([^=]*)$/.exec(word) ?? []
  const weight = text.trim() === '' ? Number.NaN : Number(text)
  return Number.isFinite(weight) ? { adapter, weight } : { adapter: word, weight: 1 }
}

export function forecastText({
  model,
  adapters,
  out,
  tensors,
  bytesRead,
  bytesWritten,
  deviceBytes,
}: FoldForecast): string {
  return (
    `Would fold ${named(adapters)} into ${model} and write ${out}: ${plural(tensors.computed, 'tensor')} computed, ` +
    `${count(tensors.copied)} copied; reads ${bytes(bytesRead)}, writes ${bytes(bytesWritten)}, buffers take ` +
    `${bytes(deviceBytes)}.`
  )
}

function named(adapters: FoldReport['adapters']): string {
  return adapters.map(({ adapter, weight }) => (weight === 1 ? adapter : `${weight} × ${adapter}`)).join(' and ')
}

export function reportText(report: FoldReport & { check?: FoldCheck }): string {
  const { model, out, adapters, tensors, folded, files, bytesWritten, dtype, check } = report
  const { elements, changed, swallowed } = folded
  return [
    `Folded ${named(adapters)} into ${model}.`,
    `Wrote ${out}: ${plural(files.length, 'file')}, ${bytes(bytesWritten)} in ${dtype}; ` +
      `${plural(tensors.computed, 'tensor')} computed, ${count(tensors.copied)} copied.`,
    ...(elements === 0
      ? []
      : [
          `Of ${count(elements)} adapted elements ${percent(changed / elements)} changed; the rounding to ${dtype} ` +
            `swallowed the change of ${percent(swallowed / elements)}.`,
        ]),
    ...(report.resumed > 0
      ? [`Resumed: ${plural(report.resumed, 'tensor')} were already written by an earlier run.`]
      : []),
    ...(check === undefined
      ? []
      : [
          `On a text of ${plural(check.tokens, 'token')} its logits are those of the base with the adapters but for ` +
            `${percent(check.difference)} of their spread; ${percent(check.agreed)} of the most likely tokens are the same.`,
        ]),
    `Took ${milliseconds(report.milliseconds)} on ${report.device}.`,
    ...report.nonFinite.map(
      ({ tensor, count: values }) => `Warning: ${tensor} holds ${plural(values, 'NaN or infinite value')}.`,
    ),
    ...report.notes.map((note) => `Note: ${note}`),
  ].join('\n')
}
