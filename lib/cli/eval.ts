/** `weightsmith eval`. */

import { type Command, Option } from 'commander'
import { type EvalOptions, type EvalReport, evaluateAll, metrics } from '../eval.js'
import { count, milliseconds, percent, table } from './format.js'
import { signal } from './interrupt.js'
import { adapter, images, json, memory, wholeNumber } from './options.js'
import { type Common, print, verb, withEngine } from './verb.js'

export function addEval(program: Command): void {
  verb(
    program,
    'eval',
    'run a model over prompts and answers: loss, perplexity, share of exact answers or of right choices',
    'weightsmith eval ./merged --data test.jsonl --metric exact-match',
  )
    .argument('<model>', 'a folder or org/name in the local cache')
    .requiredOption(
      '--data <file...>',
      '.jsonl files, one {"prompt": ..., "answer": ...} a line, and maybe an "image"; for choice "choices"',
    )
    .addOption(images())
    .addOption(new Option('--metric <name>', 'what to measure').choices(metrics).default('nll'))
    .addOption(
      wholeNumber('--max-tokens', 'most tokens of a continuation, its end among them (default: as the longest answer)'),
    )
    .addOption(wholeNumber('--limit', 'only so many lines of each file'))
    .option('--out <file>', 'a .jsonl file that gets what came out for every line')
    .addOption(memory())
    .addOption(adapter())
    .addOption(json())
    .action(run)
}

async function run(model: string, flags: Common & Omit<EvalOptions, 'data'> & { data: string[] }): Promise<void> {
  const reports = await withEngine('eval', flags, (engine, progress) =>
    evaluateAll(engine, model, { ...flags, signal, onProgress: ({ done, total }) => progress.step(done, total) }),
  )
  if (flags.json && reports.length === 1) print(reports[0], String, flags)
  else print(reports, text, flags)
}

function text(reports: readonly EvalReport[]): string {
  const [first] = reports
  if (first === undefined) return ''
  const shown = (value: number | undefined, { metric }: EvalReport) => {
    if (value === undefined) return '-'
    return metric === 'exact-match' || metric === 'choice' ? percent(value) : value.toFixed(6)
  }
  const more = first.metric === 'choice' ? 'a byte' : 'answers'
  const total = reports.reduce((sum, report) => sum + report.milliseconds, 0)
  return [
    `${first.metric} of ${first.model}, ${milliseconds(total)} on ${first.adapter}`,
    '',
    table(
      ['data', 'examples', 'tokens', first.metric, ...(first.metric === 'exact-match' ? [] : [more])],
      reports.map((report) => [
        report.data,
        count(report.examples),
        count(report.tokens),
        shown(report.value, report),
        ...(report.metric === 'exact-match' ? [] : [shown(report.normalized ?? report.answers, report)]),
      ]),
    ),
  ].join('\n')
}
