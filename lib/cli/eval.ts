/** `weightsmith eval`. */

import { type Command, Option } from 'commander'
import { type EvalOptions, type EvalReport, evalMetrics, evaluateAll } from '../eval/evaluate.js'
import { evalPage } from '../report/index.js'
import { bytes, count, milliseconds, percent, table } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, images, json, memory, report, wholeNumber } from './options.js'
import { type Common, print, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addEval(program: Command): void {
  verb(
    program,
    'eval',
    'measure a model on prompts and answers: loss, perplexity, exact match or multiple choice',
    'weightsmith eval ./merged --data test.jsonl --metric exact-match',
  )
    .argument('<model>', 'a folder or org/name in the local cache')
    .requiredOption(
      '--data <file...>',
      '.jsonl files with one {"prompt": ..., "answer": ...} per line, joined as they are; "image" is optional; choice needs "choices"; nll and ppl also take {"text": ...}',
    )
    .addOption(images())
    .addOption(new Option('--metric <name>', 'the metric').choices(evalMetrics).default('nll'))
    .addOption(
      wholeNumber(
        '--max-tokens',
        'maximum number of tokens to generate, end token included (default: length of the longest answer)',
      ),
    )
    .addOption(wholeNumber('--window', 'tokens of a text that the model sees at once (default: its context length)'))
    .addOption(wholeNumber('--stride', 'tokens by which the window advances (default: one window)'))
    .addOption(wholeNumber('--limit', 'use only the first N lines of each file'))
    .option('--out <file>', 'write the result of every line to this .jsonl file')
    .addOption(dryRun())
    .addOption(report())
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(
  model: string,
  flags: Common & Reported & Omit<EvalOptions, 'data'> & { data: string[] },
): Promise<void> {
  const lines: Readonly<Record<string, unknown>>[] = []
  const reports = await withEngine('eval', flags, (engine, progress) =>
    evaluateAll(engine, model, {
      ...flags,
      signal,
      onProgress: progress.show,
      ...(flags.report !== undefined && { onLine: (line) => lines.push(line) }),
    }),
  )
  if (!flags.dryRun) await writeReport(flags, () => evalPage(reports, lines))
  if (flags.json && reports.length === 1) print(reports[0], String, flags)
  else print(reports, text, flags)
}

function text(reports: readonly EvalReport[]): string {
  const [first] = reports
  if (first === undefined) return ''
  const { metric, dryRun, device, partitions, model } = first
  const total = milliseconds(reports.reduce((sum, report) => sum + report.milliseconds, 0))
  const where = `${partitions === 1 ? '' : `${partitions} partitions in turn, `}${bytes(first.deviceBytes)} of ${device}`
  const columns: [name: string, of: (report: EvalReport) => string][] = [
    ['data', ({ data }) => data],
    ['examples', ({ examples }) => count(examples)],
    ['tokens', ({ tokens }) => count(tokens)],
  ]
  if (!dryRun) {
    const shown = (value: number | undefined) =>
      value === undefined ? '-' : metric === 'exact-match' || metric === 'choice' ? percent(value) : value.toFixed(6)
    columns.push([metric, ({ value }) => shown(value)])
    if (metric === 'choice') columns.push(['per byte', ({ normalized }) => shown(normalized)])
    if (reports.some(({ answers }) => answers !== undefined)) columns.push(['answers', ({ answers }) => shown(answers)])
    if (reports.some(({ bitsPerByte }) => bitsPerByte !== undefined)) {
      columns.push(['bits per byte', ({ bitsPerByte }) => bitsPerByte?.toFixed(6) ?? '-'])
    }
  }
  return [
    dryRun
      ? `Would measure ${metric} of ${model}: about ${total}, ${where}`
      : `${metric} of ${model}, ${total}, ${where}`,
    '',
    table(
      columns.map(([name]) => name),
      reports.map((report) => columns.map(([, of]) => of(report))),
    ),
    ...first.notes,
  ].join('\n')
}
