/** `weightsmith prune`. */

import { type Command, Option } from 'commander'
import { diff } from '../compare/diff.js'
import { type PruneForecast, type PruneOptions, type PruneReport, prune, pruneMethods } from '../prune/prune.js'
import { prunePage, type UnitScores } from '../report/index.js'
import { bytes, count, milliseconds, parameters, percent, plural, table } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, json, memory, overwrite, realNumber, report, wholeNumber } from './options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addPrune(program: Command): void {
  verb(
    program,
    'prune',
    'remove the least important weights, heads, neurons or blocks of a model',
    'weightsmith prune ./base ./small --method flap --scores base.scores --keep-ratio 0.75 --layout compact',
  )
    .argument('<model>', 'a folder or org/name in the local cache')
    .argument('<out>', 'the folder to write')
    .addOption(
      new Option('--method <name>', 'the pruning method').choices(Object.keys(pruneMethods)).makeOptionMandatory(),
    )
    .option('--scores <file>', 'score file from weightsmith score; every method but magnitude needs one')
    .addOption(
      realNumber(
        '--sparsity',
        'magnitude, wanda, sparsegpt: fraction of the weights to zero (default: 0.5)',
        'fraction',
      ),
    )
    .option('--pattern <n:m>', 'magnitude, wanda, sparsegpt: keep n of every m consecutive weights, such as 2:4')
    .addOption(
      realNumber(
        '--keep-ratio',
        'flap, wanda-sp: fraction of the parameters of heads and neurons to keep (default: 0.75)',
        'fraction',
      ),
    )
    .addOption(
      new Option('--allocation <how>', 'flap, wanda-sp: rank units over the whole model, or within each layer').choices(
        ['global', 'uniform'],
      ),
    )
    .addOption(new Option('--metric <name>', 'flap: the importance metric').choices(['wifv', 'wifn', 'ifv']))
    .option('--no-bias', 'flap: add no bias that compensates for pruned inputs')
    .addOption(wholeNumber('--remove', 'bi, angular, ablation: number of blocks to remove (default: 1)'))
    .addOption(
      new Option('--positions <which>', 'ablation: take the loss over all tokens or over those of answers').choices([
        'all',
        'answer',
      ]),
    )
    .addOption(
      new Option('--layout <how>', 'keep shapes and write zeros (masked), or write smaller tensors (compact)')
        .choices(['masked', 'compact'])
        .default('masked'),
    )
    .addOption(memory())
    .addOption(device())
    .addOption(dryRun('show what would be removed, write nothing'))
    .option('--resume', 'continue an interrupted run; start from scratch if there is none')
    .option('--journal-every <size>', 'record progress for --resume every so many bytes written (default: 256MiB)')
    .addOption(overwrite('replace an existing output folder'))
    .addOption(report())
    .addOption(json())
    .action(run)
}

async function run(
  model: string,
  out: string,
  { json, device, memory, report, bias, ...flags }: Common & Reported & Omit<PruneOptions, 'out'>,
): Promise<void> {
  const common: Common & Reported = { json, device, memory, report }
  let scored: UnitScores | undefined
  const done = await withEngine('prune', common, async (engine, progress) => {
    const found = await prune(engine, model, {
      ...flags,
      // The flag is there whatever the method, and only flap takes a bias.
      ...(bias === false ? { bias } : {}),
      out,
      signal,
      onUnits: (units) => {
        scored = units
      },
      onProgress: progress.show,
    })
    if (!('forecast' in found)) {
      const same = found.layout === 'masked'
      await writeReport(common, async () =>
        prunePage(found, {
          units: scored,
          changed: same ? await diff(engine, model, out, { signal }) : undefined,
        }),
      )
    }
    return found
  })
  printResult(done, { report: text, forecast: forecastText }, common)
}

function forecastText(forecast: PruneForecast): string {
  return [
    ...decisionText('Would prune', forecast),
    `${bytes(forecast.bytesWritten)} would be written to ${forecast.out}.`,
  ].join('\n')
}

function text(report: PruneReport): string {
  return [
    ...decisionText('Pruned', report),
    ...(report.resumed ? [`Resumed: ${plural(report.resumed, 'tensor')} were already written by an earlier run.`] : []),
    `${bytes(report.bytesWritten)} in ${report.out}, ${milliseconds(report.milliseconds)}.`,
  ].join('\n')
}

function decisionText(done: string, report: PruneForecast): string[] {
  const { before, after } = report.parameters
  const rows = (report.units ?? []).map(({ layer, kind, kept, dropped }) => [
    String(layer),
    kind === 'group' ? 'KV groups' : 'neurons',
    count(kept),
    count(dropped.length),
  ])
  return [
    `${done} ${report.model} by ${report.method}, ${report.layout}: ${parameters(before)} parameters, ` +
      `${parameters(after)} remain (${percent(after / before)}).`,
    ...(report.blocks === undefined ? [] : [`Removed blocks: ${report.blocks.join(', ')}.`]),
    ...(rows.length === 0 ? [] : [table(['layer', 'units', 'kept', 'removed'], rows)]),
    ...report.notes,
  ]
}
