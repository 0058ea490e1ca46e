/** The report of `manu` as text. */

import { kinds, type ManuReport, manuRows, meanOf, sets } from '../manu/index.js'
import { bytes, milliseconds, plural, table } from './format.js'

const percent = (share: number) => (100 * share).toFixed(1)
const shownModules = 40

export function manuText(report: ManuReport): string {
  const { choices, before, streams, modules, within } = report
  const measured = streams.map(({ set, kind, lines, tokens }) => `${set} ${kind} ${lines} (${plural(tokens, 'token')})`)
  const device = `${report.parts === 1 ? 'the model' : `${report.parts} parts of the model in turn, each`} within ${bytes(report.memory)} of ${report.adapter}`
  const neurons = modules.reduce((sum, module) => sum + module.neurons, 0)
  if (report.dryRun) {
    return [
      `Would score ${plural(neurons, 'neuron')} of ${plural(modules.length, 'module')} of ${report.model} in ${report.mode} mode: about ` +
        `${milliseconds(report.milliseconds.total)}, ${device}.`,
      `Lines: ${measured.join(', ')}.`,
      ...report.notes.map((note) => `Note: ${note}`),
    ].join('\n')
  }
  const lines = [
    `Scored ${plural(neurons, 'neuron')} of ${plural(modules.length, 'module')} of ${report.model} in ${report.mode} mode; ` +
      `measured in ${milliseconds(report.milliseconds.measure)}, ${device}.`,
    `Lines: ${measured.join(', ')}.`,
  ]
  if (report.limited > 0) {
    lines.push(
      `${plural(report.limited, 'neuron')} hardly answer to what is to be retained: there eps decides the score.`,
    )
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
  if (within !== undefined) {
    lines.push(
      within === null
        ? 'No alpha keeps retain within the limit; nothing was written.'
        : `The largest alpha that keeps retain within the limit is ${within}.`,
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
