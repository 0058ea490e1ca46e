/** `weightsmith prune`. */

import { type Command, Option } from 'commander'
import { diff } from '../compare/diff.js'
import { type PruneOptions, type PruneReport, prune, pruneMethods } from '../prune/prune.js'
import { prunePage, type UnitScores } from '../report/index.js'
import { bytes, count, milliseconds, parameters, percent, plural, table } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, json, memory, overwrite, realNumber, report, wholeNumber } from './options.js'
import { type Common, print, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addPrune(program: Command): void {
  verb(
    program,
    'prune',
    'write a model without its least important weights, heads and neurons, or blocks',
    'weightsmith prune ./base ./small --method flap --scores base.scores --keep 0.75 --layout compact',
  )
    .argument('<model>', 'a folder or org/name in the local cache')
    .argument('<out>', 'the folder to write')
    .addOption(
      new Option('--method <name>', 'how scores are made and what goes')
        .choices(Object.keys(pruneMethods))
        .makeOptionMandatory(),
    )
    .option('--scores <file>', 'a file that score wrote; every method but magnitude needs it')
    .addOption(
      realNumber(
        '--sparsity',
        'magnitude, wanda, sparsegpt: share of the weights that become zeros (default: 0.5)',
        'share',
      ),
    )
    .option('--pattern <n:m>', 'magnitude, wanda, sparsegpt: of each m neighbours in a row n stay, as in 2:4')
    .addOption(
      realNumber(
        '--keep',
        'flap, wanda-sp: share of the parameters of heads and neurons that stays (default: 0.75)',
        'share',
      ),
    )
    .addOption(
      new Option('--widths <which>', 'flap, wanda-sp: one order over the model, or as many in every layer').choices([
        'global',
        'local',
      ]),
    )
    .addOption(new Option('--metric <name>', 'flap: what fluctuates').choices(['wifv', 'wifn', 'ifv']))
    .option('--no-bias', 'flap: do not make up for pruned inputs by a bias')
    .addOption(wholeNumber('--remove', 'bi, angular, ablation: how many blocks go (default: 1)'))
    .addOption(
      new Option('--tokens <which>', 'ablation: loss over all tokens or those of answers').choices(['all', 'answer']),
    )
    .addOption(
      new Option('--layout <how>', 'zeros in the same shapes, or smaller tensors')
        .choices(['masked', 'compact'])
        .default('masked'),
    )
    .addOption(memory())
    .addOption(device())
    .addOption(dryRun('show what would go, write nothing'))
    .option('--resume', 'continue the unfinished output of an earlier run, if there is one')
    .option('--journal-every <size>', 'bytes written between two notes that --resume goes on from (default: 256MiB)')
    .addOption(overwrite('replace the output folder if it is there'))
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
      onProgress: (bytesWritten, totalWrite) =>
        progress.update({ bytesRead: 0, totalRead: 0, bytesWritten, totalWrite, tensor: '' }),
    })
    if (!found.dryRun) {
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
  print(done, text, common)
}

function text(report: PruneReport): string {
  const { before, after } = report.parameters
  const rows = (report.units ?? []).map(({ layer, kind, kept, dropped }) => [
    String(layer),
    kind === 'group' ? 'KV groups' : 'neurons',
    count(kept),
    count(dropped.length),
  ])
  return [
    `${report.dryRun ? 'Would prune' : 'Pruned'} ${report.model} by ${report.method}, ${report.layout}: ${parameters(before)} parameters, ` +
      `${parameters(after)} of them stay (${percent(after / before)}).`,
    ...(report.blocks === undefined ? [] : [`Blocks that go: ${report.blocks.join(', ')}.`]),
    ...(rows.length === 0 ? [] : [table(['layer', 'units', 'stay', 'go'], rows)]),
    ...report.notes,
    ...(report.resumed ? [`Went on after ${plural(report.resumed, 'tensor')} of an earlier run.`] : []),
    ...(report.dryRun ? [] : [`${bytes(report.bytes ?? 0)} in ${report.out}, ${milliseconds(report.milliseconds)}.`]),
  ].join('\n')
}
