/** What `imm run` prints. */

import type { ImmReport } from '../imm/loop.js'
import { immTables } from '../report/index.js'
import { bytes, milliseconds, plural, table } from './format.js'

export function immText(report: ImmReport): string {
  if (report.dryRun) {
    return (
      `Would begin with ${report.model} and ${plural(report.questions, 'question')} a round; a round takes about ` +
      `${bytes(report.bytesPerRound)} of ${report.out}.`
    )
  }
  const { accuracy, collapse } = immTables(report)
  const shown = ({ head, rows }: typeof accuracy) =>
    table(
      [...head],
      rows.map((row) => row.map(String)),
    )
  return [
    shown(accuracy),
    ...(collapse.rows.length === 0 ? [] : ['', shown(collapse)]),
    '',
    `The ${report.policy} model is that of round ${report.chosen}: ${report.model}. It ${report.rounds.at(-1)?.decision}.`,
    `Took ${milliseconds(report.milliseconds)} on ${report.adapter}.`,
  ].join('\n')
}
