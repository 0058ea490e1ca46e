/** The report of `lora extract`: what the factors keep of each module, and how its singular values fall. */

import type { ExtractedModule, ExtractReport } from '../adapters/extract.js'
import { layerOf } from '../checkpoint/index.js'
import { shortName } from './html.js'
import type { Page, PageCurves, PageSection } from './page.js'

/** Layers whose spectra are drawn, spread evenly: more curves in a panel cannot be told apart. */
const mostCurves = 8

const share = (value: number) => `${(100 * value).toFixed(2)} %`

export function extractPage(report: ExtractReport): Page {
  const { base, tuned, out, device, modules, saved, unchanged, dropped, norm, residual } = report
  const sections: PageSection[] = [
    {
      title: 'Spectra',
      text:
        'Singular values of the difference over its norm, as many as were computed: the steeper a curve falls, the ' +
        'fewer ranks say what training has changed.',
      figure: spectra(modules),
    },
    {
      title: 'Modules',
      figure: {
        kind: 'table',
        head: ['module', 'shape', 'rank', '‖Δ‖', 'kept energy', 'residual', 'of ‖Δ‖'],
        rows: modules.map((one) => [
          ...[one.module, `${one.outputs} × ${one.inputs}`, one.rank, one.norm.toExponential(3), share(one.energy)],
          ...[one.residual.toExponential(3), share(one.residual / one.norm)],
        ]),
      },
    },
  ]
  if (saved.length > 0) {
    const rows = saved.map(({ module, reason }) => [module, reason])
    sections.push({ title: 'Kept whole', figure: { kind: 'table', head: ['module', 'because it'], rows } })
  }
  return {
    title: `What ${shortName(tuned)} changes in ${shortName(base)}`,
    summary: `${modules.length} modules as factors, which leave ${share(norm === 0 ? 0 : residual / norm)} of the norm of what has changed.`,
    facts: [
      ['base', base],
      ['tuned', tuned],
      ['adapter', out],
      ['parameters', report.parameters.toLocaleString('en-US')],
      ['unchanged', String(unchanged.length)],
      ...(dropped.length > 0 ? [['beyond the budget', dropped.join(', ')] as const] : []),
      ['device', device],
    ],
    sections,
  }
}

/** A panel a kind of module, a curve a layer. */
function spectra(modules: readonly ExtractedModule[]): PageCurves {
  const kinds = new Map<string, { name: string; points: [number, number][] }[]>()
  for (const { module, spectrum, norm } of modules) {
    const layer = layerOf(`${module}.weight`)
    const kind =
      layer === undefined ? module : module.slice(module.indexOf(`.${layer.index}.`) + `.${layer.index}.`.length)
    const name = layer === undefined ? 'all' : `layer ${layer.index}`
    const points = spectrum.map((value, k): [number, number] => [k + 1, value / norm])
    kinds.set(kind, [...(kinds.get(kind) ?? []), { name, points }])
  }
  return {
    kind: 'curves',
    x: 'singular value',
    panels: [...kinds].map(([kind, curves]) => ({ label: kind, curves: spread(curves) })),
  }
}

/** The first, the last, and what lies evenly between. */
function spread<T>(all: T[]): T[] {
  if (all.length <= mostCurves) return all
  const step = (all.length - 1) / (mostCurves - 1)
  return Array.from({ length: mostCurves }, (_, i) => all[Math.round(i * step)] as T)
}
