/** The report of a training run: how loss, gradient norm and learning rate went, and what it was trained on. */

import type { TrainingFileReport, TrainingLogLine, TrainingStepLine } from '../training/index.js'
import { shortName } from './html.js'
import type { Page, PageSection } from './page.js'

/** What a page says of a run. */
export interface TrainPageInput {
  model: string
  out: string
  device: string
  /** The log of the run. */
  lines: readonly TrainingLogLine[]
  data: readonly TrainingFileReport[]
  /** More names and values under the title: method, rank, targets. */
  facts?: readonly (readonly [name: string, value: string])[] | undefined
}

/** Points that a curve has room for; of a longer run, each is the mean of neighbours. */
const most = 250

export function trainPage({ model, out, device, lines, data, facts = [] }: TrainPageInput): Page {
  const steps = lines.filter((line): line is TrainingStepLine => 'loss' in line)
  const heldOut = lines.flatMap((line): [number, number][] =>
    'heldOutLoss' in line ? [[line.step, line.heldOutLoss]] : [],
  )
  const together = Math.ceil(steps.length / most)
  const curve = (of: (line: TrainingStepLine) => number) =>
    means(
      steps.map((line) => [line.step, of(line)]),
      together,
    )
  const last = steps.at(-1)
  const ends = [
    ...(last === undefined ? [] : [`the loss was ${last.loss.toFixed(4)} at step ${last.step}`]),
    ...heldOut.slice(-1).map(([step, loss]) => `${loss.toFixed(4)} on data held out after step ${step}`),
  ]
  const sections: PageSection[] = []
  if (steps.length > 0) {
    sections.push(
      {
        title: 'Loss',
        text: `Mean over the ids that are predicted, in nats: lower is better.${averaged(together)}`,
        figure: {
          kind: 'curves',
          x: 'step',
          panels: [
            {
              label: 'loss',
              curves: [
                { name: 'training', points: curve(({ loss }) => loss) },
                ...(heldOut.length === 0
                  ? []
                  : [{ name: 'held out', points: means(heldOut, Math.ceil(heldOut.length / most)) }]),
              ],
            },
          ],
        },
      },
      {
        title: 'Gradient norm and learning rate',
        text: `The norm is that before clipping.${averaged(together)}`,
        figure: {
          kind: 'curves',
          x: 'step',
          panels: [
            {
              label: 'gradient norm',
              curves: [{ name: 'gradient norm', points: curve(({ gradientNorm }) => gradientNorm) }],
            },
            { label: 'learning rate', curves: [{ name: 'learning rate', points: curve(({ rate }) => rate) }] },
          ],
        },
      },
    )
  }
  sections.push(dataSection(data))
  return {
    title: `How ${shortName(model)} was trained`,
    summary: ends.length === 0 ? undefined : `${sentence(ends.join(', and '))}.`,
    facts: [
      ['model', model],
      ['result', out],
      ...facts,
      ['steps', String(steps.length)],
      ['tokens', steps.reduce((sum, { tokens }) => sum + tokens, 0).toLocaleString('en-US')],
      ['device', device],
    ],
    sections,
  }
}

function averaged(together: number): string {
  return together === 1 ? '' : ` Each point is the mean of ${together} steps.`
}

const sentence = (text: string) => text.charAt(0).toUpperCase() + text.slice(1)

/** Every so many points as one, where the last of them is. */
function means(points: readonly (readonly [number, number])[], together: number): [number, number][] {
  return Array.from({ length: Math.ceil(points.length / together) }, (_, i) => {
    const some = points.slice(i * together, (i + 1) * together)
    return [some.at(-1)?.[0] ?? 0, some.reduce((sum, [, value]) => sum + value, 0) / some.length]
  })
}

function dataSection(data: readonly TrainingFileReport[]): PageSection {
  const notes = data.flatMap(({ file, truncated, empty, cutOff }) => [
    ...(truncated === undefined
      ? []
      : [`${truncated.count} of ${file} have lost their end (first: ${truncated.first})`]),
    ...(empty === undefined ? [] : [`${empty.count} of ${file} have nothing to predict (first: ${empty.first})`]),
    ...(cutOff === undefined ? [] : [`of ${cutOff.count} of ${file} no answer fits (first: ${cutOff.first})`]),
  ])
  return {
    title: 'Data',
    text: notes.length === 0 ? undefined : `${sentence(notes.join('; '))}.`,
    figure: {
      kind: 'table',
      head: ['data', 'records', 'examples', 'tokens', 'to predict', 'truncated', 'left out'],
      rows: data.map(({ file, records, examples, tokens, targets, truncated, empty, cutOff }) => [
        ...[file, records, examples, tokens, targets],
        ...[truncated?.count ?? 0, (empty?.count ?? 0) + (cutOff?.count ?? 0)],
      ]),
    },
  }
}
