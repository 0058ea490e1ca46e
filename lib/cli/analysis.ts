/** The text of `weightsmith imm analyze`. */

import type { Analysis } from '../imm/analyze.js'
import { milliseconds, percent, plural, table } from './format.js'

export function analysisText({ base, data, importance, models, adapter, ...report }: Analysis): string {
  const short = (path: string) => path.replace(/^.*[\\/](?=.)/, '')
  const names = models.map(({ model }) => short(model))
  const lines = [
    `${plural(models.length, 'model')} against ${base}${data === undefined ? '' : `, importance on ${data}`}, in ` +
      `${milliseconds(report.milliseconds)} on ${adapter}.`,
    '',
    table(
      [
        'layer',
        ...importance.map(({ name }) => name),
        ...names.flatMap((name) => [`${name} |Δ|`, '‖Δ‖/‖A‖', 'changed']),
      ],
      (models[0]?.layers ?? []).map(({ layer }, i) => [
        String(layer),
        ...importance.map(({ values }) => (values[i] ?? 0).toFixed(4)),
        ...models.flatMap(({ layers }) => {
          const change = layers[i]
          return [
            change?.meanAbs.toExponential(3) ?? '-',
            change?.relative?.toFixed(4) ?? '-',
            change === undefined ? '-' : percent(change.changed),
          ]
        }),
      ]),
    ),
    '',
    table(
      ['module', ...names.map((name) => `${name} |Δ|`)],
      (models[0]?.diff.modules ?? []).map(({ module }) => [
        module,
        ...models.map(
          ({ diff }) => diff.modules.find((other) => other.module === module)?.meanAbs.toExponential(3) ?? '-',
        ),
      ]),
    ),
  ]
  if (importance.length === 0) {
    lines.push('', 'Without --data or --scores there is no importance to compare the change with.')
    return lines.join('\n')
  }
  const rho = (value: number | null) => value?.toFixed(3) ?? '-'
  lines.push(
    '',
    table(
      ['model', 'importance', 'ρ |Δ|', 'ρ ‖Δ‖/‖A‖', 'ρ changed', 'top layers', 'their share', 'uniform'],
      models.flatMap(({ against }, i) =>
        against.map(({ importance: name, spearman, top, mass, uniform }) => [
          names[i] ?? '',
          name,
          rho(spearman.meanAbs),
          rho(spearman.relative),
          rho(spearman.changed),
          top.join(', '),
          percent(mass),
          percent(uniform),
        ]),
      ),
    ),
    '',
    'ρ below zero: the layers that matter most have changed least. Quantities that merely grow with depth correlate too.',
  )
  return lines.join('\n')
}
