/**
 * The report of `eval`: how well a model predicts data sets, how losses are spread over their lines, and where the
 * model errs.
 */

import type { EvalReport, EvalSetReport } from '../eval/evaluate.js'
import { shortName } from './html.js'
import type { Page, PageSection } from './page.js'

/** What came out for a line; see `onLine` of the evaluation. */
type Outcome = Readonly<Record<string, unknown>>

const shown = 20
const longest = 100

const abouts: Record<EvalReport['metric'], string> = {
  nll: 'Mean loss a token in nats: lower is better.',
  ppl: 'Perplexity, the exponential of the mean loss a token: lower is better, 1 is perfect.',
  'exact-match': 'Share of the prompts that the model goes on from with exactly the answer: higher is better.',
  choice: 'Share of the questions whose right choice is the likeliest for the model: higher is better.',
}

/** `outcomes`: what `onLine` got. */
export function evalPage({ metric, model, shape, device, sets }: EvalReport, outcomes: readonly Outcome[]): Page {
  const share = metric === 'exact-match' || metric === 'choice'
  const value = (number: number | undefined) =>
    number === undefined ? '-' : share ? `${(100 * number).toFixed(2)} %` : number.toFixed(4)
  const more: [name: string, of: (set: EvalSetReport) => string][] = (
    [
      ['answers alone', (set) => value(set.answers)],
      ['bits a byte', (set) => set.bitsPerByte?.toFixed(4) ?? '-'],
      ['by the length of choices', (set) => value(set.normalized)],
    ] as [string, (set: EvalSetReport) => string][]
  ).filter(([, of]) => sets.some((set) => of(set) !== '-'))
  const sections: PageSection[] = [
    {
      title: 'Data sets',
      text: abouts[metric],
      figure: {
        kind: 'table',
        head: ['data', 'lines', 'tokens', metric, ...more.map(([name]) => name)],
        rows: sets.map((set) => [
          ...[set.data, set.examples, set.tokens],
          value(set.value),
          ...more.map(([, of]) => of(set)),
        ]),
      },
    },
    ...(share ? [] : lossSections(sets, outcomes)),
    ...(metric === 'choice' ? marginSections(sets, outcomes) : []),
    ...(share ? errorSections(sets, outcomes, metric) : []),
  ]
  return {
    title: `How well ${shortName(model)} does: ${metric}`,
    summary: sets.map((set) => `${shortName(set.data)}: ${value(set.value)}`).join('; '),
    facts: [['model', model], ...(shape === undefined ? [] : shapeFacts(shape)), ['device', device]],
    sections,
  }
}

function shapeFacts({ strategy, depth, width = 1, bias = true }: NonNullable<EvalReport['shape']>) {
  return [
    ['strategy', strategy],
    ['blocks', depth === undefined ? 'all' : String(depth)],
    ['width', String(Number(width.toPrecision(4)))],
    ['biases for what is removed', bias ? 'yes' : 'no'],
  ] as const
}

/** Losses of the lines of each data set, and the lines with the largest. */
function lossSections(sets: readonly EvalSetReport[], outcomes: readonly Outcome[]): PageSection[] {
  const losses = outcomes
    .filter(({ tokens }) => Number(tokens) > 0)
    .map((line) => ({ ...line, loss: Number(line.nll) / Number(line.tokens) }) as Outcome & { loss: number })
  const worst = [...losses].sort((a, b) => b.loss - a.loss).slice(0, shown)
  return [
    {
      title: 'Losses of the lines',
      text: 'Mean loss a token of every line, in nats.',
      figure: {
        kind: 'histogram',
        label: 'loss a token',
        series: sets.map(({ data }) => ({
          name: shortName(data),
          values: losses.filter((line) => line.data === data).map(({ loss }) => loss),
        })),
      },
    },
    {
      title: 'Lines with the largest loss',
      figure: {
        kind: 'table',
        head: ['data', 'line', 'begins with', 'tokens', 'loss a token'],
        rows: worst.map((line) => [
          ...placeOf(line),
          cut(line.prompt),
          Number(line.tokens),
          Number(line.loss.toFixed(4)),
        ]),
      },
    },
  ]
}

/** By how much the right choice is likelier than the best of the others. */
function marginSections(sets: readonly EvalSetReport[], outcomes: readonly Outcome[]): PageSection[] {
  const margin = ({ losses, answer }: Outcome) => {
    const own = losses as number[]
    const others = own.filter((_, i) => i !== answer)
    return Math.min(...others) - (own[Number(answer)] ?? 0)
  }
  return [
    {
      title: 'How sure the model is',
      text: 'Loss of the best wrong choice less that of the right one, in nats: below zero the model is wrong.',
      figure: {
        kind: 'histogram',
        label: 'margin of the right choice',
        threshold: 0,
        series: sets.map(({ data }) => ({
          name: shortName(data),
          values: outcomes.filter((line) => line.data === data).map(margin),
        })),
      },
    },
  ]
}

function errorSections(
  sets: readonly EvalSetReport[],
  outcomes: readonly Outcome[],
  metric: 'exact-match' | 'choice',
): PageSection[] {
  const wrong = outcomes.filter(({ right }) => right !== true)
  const each = Math.ceil(shown / sets.length)
  const few = sets.flatMap(({ data }) => wrong.filter((line) => line.data === data).slice(0, each))
  const given = (line: Outcome): [string, string] =>
    metric === 'choice'
      ? [choiceOf(line, line.answer), choiceOf(line, line.picked)]
      : [cut(line.answer), `${cut(line.text)}${line.ended === true ? '' : ' … (did not end)'}`]
  const title = 'Where it is wrong'
  if (wrong.length === 0) return [{ title, text: 'Nowhere.' }]
  return [
    {
      title,
      text: `${wrong.length} of ${outcomes.length} lines${few.length < wrong.length ? `; the first of each data set:` : ':'}`,
      figure: {
        kind: 'table',
        head: ['data', 'line', 'prompt', 'answer', metric === 'choice' ? 'picked' : 'completion'],
        rows: few.map((line) => [...placeOf(line), cut(line.prompt), ...given(line)]),
      },
    },
  ]
}

function placeOf({ data, example }: Outcome): [string, string] {
  return [shortName(String(data)), String(example)]
}

function choiceOf({ choices }: Outcome, index: unknown): string {
  return cut((choices as string[] | undefined)?.[Number(index)])
}

function cut(text: unknown): string {
  const whole = String(text ?? '')
  return whole.length > longest ? `${whole.slice(0, longest)}…` : whole
}
