/** The report of `imm run`: accuracies and signs of collapse over the rounds. */

import type { ImmCollapse } from '../workflows/imm/collapse.js'
import type { ImmReport, ImmRoundReport } from '../workflows/imm/loop.js'
import type { Page, PageCurves, PageSection, PageTable } from './page.js'

const share = (value: number | null | undefined) =>
  value === null || value === undefined ? '-' : `${(100 * value).toFixed(1)} %`

/** Accuracies a round, of the trained model and, after it, of the merged one; then signs of collapse, a set a row. */
export function immTables({ rounds }: Pick<ImmReport, 'rounds'>): { accuracy: PageTable; collapse: PageTable } {
  return {
    accuracy: {
      kind: 'table',
      head: ['round', 'kept', 'trained ID', 'trained OOD', 'ID', 'OOD', 'valid'],
      rows: rounds.map(({ round, data, trained, evaluation }) => [
        round,
        data === undefined ? '-' : `${data.kept} of ${data.generated}`,
        share(trained?.evaluation.idMean),
        share(trained?.evaluation.oodMean),
        share(evaluation.idMean),
        share(evaluation.oodMean),
        share(evaluation.valid),
      ]),
    },
    collapse: {
      kind: 'table',
      head: ['round', 'set', 'entropy', 'distinct-2', 'pass@1', 'pass@k', 'gap'],
      rows: rounds.flatMap(({ round, evaluation: { collapse } }) =>
        signs(collapse).map(([set, one]) => [
          round,
          set,
          one.entropy.toFixed(3),
          one.distinct.toFixed(3),
          ...[one.pass1, one.passK, one.gap].map(share),
        ]),
      ),
    },
  }
}

function signs(collapse: ImmRoundReport['evaluation']['collapse']): [string, ImmCollapse][] {
  const all = [
    ['ID', collapse?.id],
    ['OOD', collapse?.ood],
  ] as const
  return all.flatMap(([set, one]) => (one === undefined ? [] : [[set, one] as [string, ImmCollapse]]))
}

/** The page of `imm`: accuracies and signs of collapse over the rounds. */
export function immPage(report: ImmReport): Page {
  const { accuracy, collapse } = immTables(report)
  const curve = (name: string, of: (round: ImmRoundReport) => number | null | undefined) => ({
    name,
    points: report.rounds.flatMap((round) => {
      const value = of(round)
      return value === null || value === undefined ? [] : [[round.round, value] as const]
    }),
  })
  const panel = (label: string, ...curves: ReturnType<typeof curve>[]) => ({
    label,
    curves: curves.filter(({ points }) => points.length > 0),
  })
  const panels = [
    panel(
      'accuracy',
      curve('ID', ({ evaluation }) => evaluation.idMean),
      curve('OOD', ({ evaluation }) => evaluation.oodMean),
      curve('ID before the merge', ({ trained }) => trained?.evaluation.idMean),
      curve('OOD before the merge', ({ trained }) => trained?.evaluation.oodMean),
    ),
    panel(
      'entropy of answers (nats)',
      curve('ID', ({ evaluation }) => evaluation.collapse?.id?.entropy),
      curve('OOD', ({ evaluation }) => evaluation.collapse?.ood?.entropy),
    ),
    panel(
      'pass@k − pass@1',
      curve('ID', ({ evaluation }) => evaluation.collapse?.id?.gap),
      curve('OOD', ({ evaluation }) => evaluation.collapse?.ood?.gap),
    ),
  ].filter(({ curves }) => curves.length > 0)
  const figure: PageCurves = { kind: 'curves', x: 'round', panels }
  const sections: PageSection[] = [
    { title: 'Accuracy', text: 'Means over the sets. Round 0 is the original model.', figure: accuracy },
    ...(panels.length > 0 ? [{ title: 'Over the rounds', figure }] : []),
  ]
  if (collapse.rows.length > 0) {
    sections.push({
      title: 'Signs of collapse',
      text:
        'Of samples of each question: the entropy of their answers (nats), the share of different pairs of neighbouring words, ' +
        'the share of samples that are right, of questions with a sample that is, and what is between.',
      figure: collapse,
    })
  }
  return {
    title: 'Iterative model merging',
    summary: `The result is the model of round ${report.chosen} (policy ${report.policy}).`,
    facts: [
      ['model', report.model],
      ['questions', String(report.questions)],
      ['device', report.device],
    ],
    sections,
  }
}
