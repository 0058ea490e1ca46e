/**
 * The report of `manu`: what is forgotten and kept at every alpha, and which layers and modules carry the forget set.
 */

import type { ManuAnswers, ManuReport } from '../workflows/manu/index.js'
import type { Page, PageSection } from './page.js'

const percent = (share: number) => `${(100 * share).toFixed(1)} %`

/** `rows`: names and answers of every model that was asked. */
export function manuPage(report: ManuReport, rows: readonly { name: string; answers: ManuAnswers[] }[]): Page {
  const { choices, before, modules, streams } = report
  const columns = before?.map(({ set, kind }) => ({ set, kind, name: `${set} ${kind}` })) ?? []
  const of = (answers: readonly ManuAnswers[], column: { set: string; kind: string }) =>
    answers.find(({ set, kind }) => set === column.set && kind === column.kind)
  const sections: PageSection[] = []
  if (before !== undefined) {
    sections.push({
      title: 'Exact answers and losses',
      text: 'An answer is exact where every token of it, and its end, is the likeliest. In brackets the mean loss of answers, in nats.',
      figure: {
        kind: 'table',
        head: ['model', ...columns.map(({ name }) => name)],
        rows: rows.map(({ name, answers }) => [
          name,
          ...columns.map((column) => {
            const own = of(answers, column)
            return own === undefined ? '–' : `${percent(own.accuracy)} (${own.nll.toPrecision(3)})`
          }),
        ]),
      },
    })
  }
  if (choices.length > 1 && before !== undefined) {
    const points = (column: { set: string; kind: string }, value: (answers: ManuAnswers) => number) =>
      [{ alpha: 0, answers: before }, ...choices].flatMap(({ alpha, answers = [] }) => {
        const own = of(answers, column)
        return own === undefined ? [] : [[alpha, value(own)] as const]
      })
    const panel = (label: string, value: (answers: ManuAnswers) => number) => ({
      label,
      curves: columns.map((column) => ({ name: column.name, points: points(column, value) })),
    })
    sections.push({
      title: 'What each alpha costs',
      figure: {
        kind: 'curves',
        x: 'alpha, %',
        panels: [
          panel('exact answers, %', ({ accuracy }) => 100 * accuracy),
          panel('loss of answers', ({ nll }) => nll),
        ],
      },
    })
  }
  for (const [i, { alpha }] of choices.entries()) {
    const last = (name: string) => name.slice(name.lastIndexOf('.') + 1)
    const row = ({ tower, layer }: (typeof modules)[number]) => `${tower} ${layer}`
    sections.push({
      title: `Where the chosen ${alpha} % are`,
      text: 'Share of the neurons of each module that are chosen: the layers and modules that carry what is to be forgotten.',
      figure: {
        kind: 'heat',
        label: 'share chosen, %',
        rows: [...new Set(modules.map(row))],
        columns: [...new Set(modules.map(({ name }) => last(name)))],
        cells: modules.map((module) => ({
          ...{ row: row(module), column: last(module.name) },
          value: (100 * (module.selected[i] ?? 0)) / module.neurons,
          note: `${module.selected[i] ?? 0} of ${module.neurons}`,
        })),
      },
    })
  }
  const [most] = choices.slice(-1)
  if (most !== undefined && most.neurons.length > 0) {
    const threshold = Math.min(...most.towers.map(({ threshold }) => threshold))
    sections.push({
      title: `Scores of the chosen ${most.alpha} %`,
      text: 'The dashed line is the lower of the thresholds of the towers.',
      figure: {
        kind: 'histogram',
        label: 'score',
        series: [{ name: 'chosen neurons', values: most.neurons.map(({ score }) => score) }],
        ...(Number.isFinite(threshold) && { threshold }),
      },
    })
  }
  return {
    title: `Unlearning by neurons: ${report.model}`,
    summary: `Neurons of ${modules.length} modules scored in ${report.mode} mode, and the highest set to zero.`,
    facts: [
      ['mode', report.mode],
      ['lines', streams.map(({ set, kind, lines }) => `${set} ${kind} ${lines}`).join(', ')],
      ['decided by eps', String(report.limited)],
      ['device', report.device],
    ],
    sections,
  }
}
