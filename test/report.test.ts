/** Reports: one HTML file that a browser shows without a complaint, in light and dark, wide and narrow. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type Page, type PageCurves, renderPage, writePage } from 'weightsmith'
import { binned, keptShares } from '../lib/report/bins.js'
import { extractPage, trainPage } from '../lib/report/index.js'
import { Browser } from './browser.js'
import { cli } from './child.js'

const folder = mkdtempSync(join(tmpdir(), 'weightsmith-report-'))
const layers = Array.from({ length: 8 }, (_, layer) => layer)
const hostile = '<script>alert(1)</script> & "quotes" \'too\''

const page: Page = {
  title: `Everything ${hostile}`,
  summary: hostile,
  facts: [[hostile, hostile]],
  sections: [
    { title: 'Words', text: hostile },
    { title: 'Table', figure: { kind: 'table', head: ['name', 'value'], rows: [[hostile, 0.25]] } },
    {
      title: 'Heat',
      figure: {
        kind: 'heat',
        label: 'change',
        rows: layers.map((layer) => `layer ${layer}`),
        columns: ['q', hostile],
        cells: layers.flatMap((layer) => [
          { row: `layer ${layer}`, column: 'q', value: layer, note: hostile },
          { row: `layer ${layer}`, column: hostile, value: null },
        ]),
      },
    },
    {
      title: 'Curves',
      figure: {
        kind: 'curves',
        x: 'layer',
        panels: [
          { label: 'up', curves: [{ name: hostile, points: layers.map((layer) => [layer, layer ** 2]) }] },
          { label: 'down', curves: [{ name: 'b', points: layers.map((layer) => [layer, -layer]) }] },
        ],
      },
    },
    {
      title: 'Histogram',
      figure: {
        kind: 'histogram',
        label: 'score',
        log: true,
        threshold: 2,
        series: [
          { name: 'a', values: Float32Array.from({ length: 1000 }, (_, i) => i / 100) },
          { name: hostile, values: [1, 2, Number.NaN] },
        ],
      },
    },
    {
      title: 'Map',
      figure: {
        kind: 'map',
        unit: 'neuron',
        rows: layers.map((layer) => ({
          name: `layer ${layer}`,
          kept: Array.from({ length: 300 - layer }, (_, i) => i % 8 >= layer),
        })),
      },
    },
  ],
}

describe('a heat map', () => {
  const heatOf = (values: number[], among?: number[]) =>
    renderPage({
      title: 'Heat',
      sections: [
        {
          title: 'Heat',
          figure: {
            kind: 'heat',
            label: 'change',
            rows: ['row'],
            columns: values.map((_, i) => `c${i}`),
            cells: values.map((value, i) => ({ row: 'row', column: `c${i}`, value })),
            among,
          },
        },
      ],
    })
  const colours = async (values: number[], among?: number[]) =>
    [...(await heatOf(values, among)).matchAll(/<rect[^>]*fill="var\(--h(\d)\)"/g)].map(([, step]) => Number(step))

  test('tells cells apart however large one of them is, in order of their values', async () => {
    const small = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08]
    const got = await colours([...small, 1000])
    expect(got).toHaveLength(9)
    expect(got).toEqual([...got].sort((a, b) => a - b))
    expect(new Set(got.slice(0, 8)).size).toBeGreaterThan(5)
    expect(Math.max(...got)).toBe(got[8])
    expect(await colours([0, 0, 0, 5])).toEqual([0, 0, 0, Math.max(...got)])
    // two maps that share a scale
    const [low] = await colours([3], [1, 2, 3, 4, 5, 6, 7, 8, 9])
    expect(low).toBeGreaterThan(0)
    expect(low).toBeLessThan(Math.max(...got))
  })

  test('says all values with as many digits', async () => {
    const html = await heatOf([0.02, 0.0201, 1.5, 12.25, 4])
    for (const text of ['0.0200', '0.0201', '1.50', '12.3', '4']) expect(html).toContain(`>${text}</text>`)
    for (const text of ['0.02000', '0.02010', '1.500', '12.25', '4']) expect(html).toContain(`>${text}</td>`)
  })
})

let browser: Browser
beforeAll(async () => {
  browser = await Browser.open()
})
afterAll(async () => {
  await browser?.close()
  rmSync(folder, { recursive: true, force: true })
})

/** What can be seen of the page that is shown. */
interface Seen {
  title: string
  scripts: number
  drawings: { label: string; shapes: number; width: number; height: number }[]
  /** Elements that stick out of the page. */
  outside: number
  background: string
}
const look = `({
  title: document.title,
  scripts: document.querySelectorAll('script, [src], link').length,
  drawings: [...document.querySelectorAll('svg')].map((svg) => {
    const { width, height } = svg.getBoundingClientRect()
    return { label: svg.getAttribute('aria-label'), shapes: svg.querySelectorAll('rect, path, circle').length, width, height }
  }),
  outside: document.documentElement.scrollWidth - innerWidth,
  background: getComputedStyle(document.body).backgroundColor,
})`

describe('a report with every kind of figure', () => {
  let file: string
  beforeAll(async () => {
    file = join(folder, 'all.html')
    await writePage(file, page)
  })

  for (const dark of [false, true]) {
    for (const width of [1100, 390]) {
      test(`is shown whole, ${dark ? 'dark' : 'light'}, ${width} wide, and asks for nothing`, async () => {
        await browser.show(file, { width, dark })
        const seen = await browser.value<Seen>(look)
        expect(browser.complaints).toEqual([])
        expect(seen.title).toBe(page.title)
        expect(seen.scripts).toBe(0)
        expect(seen.drawings.map(({ label }) => label)).toEqual([
          'Heat',
          'Curves: up',
          'Curves: down',
          'Histogram',
          'Map',
        ])
        for (const drawing of seen.drawings) {
          expect(drawing.shapes).toBeGreaterThan(8)
          expect(Math.min(drawing.width, drawing.height)).toBeGreaterThan(100)
        }
        expect(seen.outside).toBeLessThanOrEqual(0)
        expect(seen.background).toBe(dark ? 'rgb(14, 20, 27)' : 'rgb(255, 255, 255)')
      })
    }
  }

  test('gives every colour a value, in cells and lines alike', async () => {
    await browser.show(file)
    const names = [...new Set(readFileSync(file, 'utf8').match(/var\(--\w+\)/g))]
    expect(names.length).toBeGreaterThan(10)
    const unknown = await browser.value<string[]>(
      `${JSON.stringify(names)}.filter((name) => getComputedStyle(document.documentElement)
        .getPropertyValue(name.slice(4, -1)) === '')`,
    )
    expect(unknown).toEqual([])
  })

  test('has its numbers as tables too, and says what a cell is', async () => {
    await browser.show(file)
    const text = await browser.value<string>(`document.querySelector('details table').textContent`)
    expect(text).toContain('layer 7')
    const cells = await browser.value<string[]>(
      `[...document.querySelectorAll('rect title')].map((t) => t.textContent)`,
    )
    expect(cells).toContain(`layer 3, q: 3; ${hostile}`)
    expect(cells).toContain(`layer 3, ${hostile}: unknown`)
  })

  test('is the same text every time', async () => {
    expect(await renderPage(page)).toBe(readFileSync(file, 'utf8'))
  })
})

test('the browser would complain of a page that logs, throws or fetches', async () => {
  const file = join(folder, 'bad.html')
  writeFileSync(file, '<script>console.error("no"); null.x</script><img src="http://127.0.0.1:9/x.png">')
  await browser.show(file)
  expect(browser.complaints.join()).toMatch(/consoleAPICalled.*exceptionThrown/)
  expect(browser.complaints.join()).toContain('127.0.0.1:9')
})

test('a report that cannot be written is refused by name', async () => {
  const file = join(folder, 'none/report.html')
  await expect(writePage(file, page)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_IO_WRITE' })
})

test('diff --report writes where a model has moved', async () => {
  const file = join(folder, 'diff.html')
  const { code, stderr } = await cli('diff', 'demo/models/base', 'demo/models/improved-1', '--report', file, '--json')
  expect([code, stderr]).toEqual([0, ''])
  await browser.show(file)
  expect(browser.complaints).toEqual([])
  const seen = await browser.value<Seen>(look)
  expect(seen.title).toBe('How far demo/models/improved-1 has moved from demo/models/base')
  expect(seen.drawings).toHaveLength(3)
})

test('score --report and prune --report draw what is important and what was kept', async () => {
  const [scores, pages] = [
    join(folder, 'base.scores'),
    ['score', 'prune', 'shallow'].map((name) => join(folder, `${name}.html`)),
  ]
  const data = ['--data', 'test/goldens/tasks/calibration.jsonl', '--limit', '8']
  const scored = [
    'score',
    'demo/models/base',
    '--methods',
    'flap',
    'bi',
    ...data,
    '--out',
    scores,
    '--report',
    pages[0]!,
  ]
  const pruned = ['prune', 'demo/models/base', join(folder, 'pruned'), '--method', 'flap', '--scores', scores]
  expect((await cli(...scored)).code).toBe(0)
  expect((await cli(...pruned, '--report', pages[1]!)).code).toBe(0)
  const shallow = ['prune', 'demo/models/base', join(folder, 'shallow'), '--method', 'bi', '--scores', scores]
  expect((await cli(...shallow, '--layout', 'compact', '--report', pages[2]!)).code).toBe(0)
  for (const [page, labels] of [
    [
      pages[0]!,
      [
        'Importance of the layers: block influence',
        'Fluctuation of inputs: layers and modules',
        'Fluctuation of inputs: distribution',
        'Magnitude of weights: layers and modules',
        'Magnitude of weights: distribution',
      ],
    ],
    [
      pages[1]!,
      [
        'Kept: neurons',
        'Scores: neurons',
        'Kept: groups of heads',
        'Scores: groups of heads',
        'Weights that differ from the model, by layer and module',
      ],
    ],
    [pages[2]!, ['Kept: blocks', 'Scores: block influence: block influence']],
  ] as const) {
    await browser.show(page)
    expect(browser.complaints).toEqual([])
    const seen = await browser.value<Seen>(look)
    expect(seen.drawings.map(({ label }) => label)).toEqual(labels)
  }
})

test('eval --report shows how lines fare, and where the model is wrong', async () => {
  const choices = join(folder, 'choices.jsonl')
  const lines = [
    { prompt: 's:graph=', choices: ['aghrp', 'aghpr'], answer: 1 },
    { prompt: 's:graph=', choices: ['aghrp', 'aghpr'], answer: 0 },
  ]
  writeFileSync(choices, lines.map((line) => JSON.stringify(line)).join('\n'))
  const data = 'test/goldens/tasks/calibration.jsonl'
  for (const [metric, file, labels, text] of [
    ['ppl', data, ['Losses of the lines'], 'Lines with the largest loss'],
    ['exact-match', data, [], /\S … \(did not end\)/],
    ['choice', choices, ['How sure the model is'], '1 of 2 lines'],
  ] as const) {
    const page = join(folder, `${metric}.html`)
    const evaluated = [
      'eval',
      'demo/models/base',
      '--data',
      file,
      '--metric',
      metric,
      '--limit',
      '30',
      '--report',
      page,
    ]
    expect((await cli(...evaluated, ...(metric === 'exact-match' ? ['--max-tokens', '3'] : []))).code).toBe(0)
    await browser.show(page)
    expect(browser.complaints).toEqual([])
    expect((await browser.value<Seen>(look)).drawings.map(({ label }) => label)).toEqual(labels)
    expect(await browser.value<string>('document.body.innerText')).toMatch(text)
  }
})

describe('the report of training', () => {
  const lines = (steps: number, every: number) =>
    Array.from({ length: steps }, (_, i) => i + 1).flatMap((step) => [
      { step, epoch: 0, loss: 4 / step, gradientNorm: 1 + (step % 2), rate: 1e-3 / step, tokens: 100, targets: 10 },
      ...(step % every === 0 ? [{ step, heldOutLoss: 5 / step }] : []),
    ])
  const data = [
    {
      ...{ file: 'a.jsonl', sha256: '', records: 12, examples: 9, tokens: 900, targets: 90 },
      ...{ truncated: { count: 2, first: 'Line 3 of a.jsonl' }, empty: { count: 3, first: 'Line 4 of a.jsonl' } },
    },
    { file: 'b.jsonl', sha256: '', records: 5, examples: 5, tokens: 50, targets: 5 },
  ]
  const of = (steps: number, every: number) =>
    trainPage({ model: 'x/base', out: 'tuned', device: 'a device', lines: lines(steps, every), data })

  test('shows loss, gradient norm and rate over the steps, and what data lost', async () => {
    const file = join(folder, 'train.html')
    await writePage(file, of(20, 5))
    await browser.show(file)
    expect(browser.complaints).toEqual([])
    const { drawings, title } = await browser.value<Seen>(look)
    expect(title).toBe('How base was trained')
    expect(drawings.map(({ label }) => label)).toEqual([
      'Loss: loss',
      'Gradient norm and learning rate: gradient norm',
      'Gradient norm and learning rate: learning rate',
    ])
    const text = await browser.value<string>('document.body.innerText')
    expect(text).toMatch('The loss was 0.2000 at step 20, and 0.2500 on data held out after step 20.')
    expect(text).toMatch('2 of a.jsonl have lost their end (first: Line 3 of a.jsonl)')
    expect(text).toMatch('3 of a.jsonl have nothing to predict (first: Line 4 of a.jsonl)')
    const rows = await browser.value<string[]>(
      `[...document.querySelectorAll('section:last-child tbody tr')].map((row) => row.innerText)`,
    )
    expect(rows.map((row) => row.split(/\s+/))).toEqual([
      ['a.jsonl', '12', '9', '900', '90', '2', '3'],
      ['b.jsonl', '5', '5', '50', '5', '0', '0'],
    ])
  })

  test('has as many points of a long run as there is room for, each the mean of neighbours', () => {
    const page = of(1001, 1000)
    const [loss, norms] = page.sections.map(({ figure }) => (figure?.kind === 'curves' ? figure.panels : []))
    const points = loss![0]!.curves.map((curve) => curve.points)
    expect(points.map(({ length }) => length)).toEqual([201, 1])
    const mean = (steps: number[]) => steps.reduce((sum, step) => sum + 4 / step / steps.length, 0)
    expect(points[0]![0]).toEqual([5, expect.closeTo(mean([1, 2, 3, 4, 5]), 12)])
    expect(points[0]![200]).toEqual([1001, 4 / 1001])
    expect(norms![0]!.curves[0]!.points[0]).toEqual([5, 1.6])
    expect(page.sections[0]!.text).toContain('Each point is the mean of 5 steps.')
    expect(page.facts).toContainEqual(['tokens', '100,100'])
  })

  test('of a run without a step has the data alone', () => {
    const { sections, summary } = of(0, 1)
    expect([sections.map(({ title }) => title), summary]).toEqual([['Data'], undefined])
  })
})

describe('counts behind figures', () => {
  test('every value is in one bin, the largest in the last one, and those without a place are told', () => {
    const { edges, shares, left } = binned(
      [
        [0, 1, 2, 3, 4],
        [4, Number.NaN],
      ],
      4,
    )
    expect(edges).toEqual([0, 1, 2, 3, 4])
    expect(shares).toEqual([
      [0.2, 0.2, 0.2, 0.4],
      [0, 0, 0, 0.5],
    ])
    expect(left).toEqual([0, 1])
  })

  test('bins of equal ratios leave out what is not positive, and one value is a bin of its own', () => {
    const ratios = binned([[1, 10, 99, 0, -1]], 2, true)
    expect(ratios.edges[1]).toBeCloseTo(Math.sqrt(99), 10)
    expect(ratios.shares).toEqual([[0.2, 0.4]])
    expect(ratios.left).toEqual([2])
    expect(binned([[7, 7]], 3).shares).toEqual([[0, 1, 0]])
    expect(binned([[]], 2).shares).toEqual([[0, 0]])
  })

  test('many units are grouped with their neighbours, and none is lost', () => {
    expect(keptShares([true, false, true], 8)).toEqual([1, 0, 1])
    expect(keptShares([1, 1, 0, 0, 1, 0, 1], 3)).toEqual([1, 0, 2 / 3])
  })
})

test('the page of an extraction draws the spectra of some layers of each kind of module', async () => {
  const modules = Array.from({ length: 24 }, (_, i) => ({
    module: `model.layers.${i % 12}.${i < 12 ? 'self_attn.q_proj' : 'mlp.up_proj'}`,
    ...{ outputs: 8, inputs: 8, rank: 2, norm: 2, energy: 0.75, residual: 1, spectrum: [1.6, 0.6, 0.2], whole: false },
  }))
  const page = extractPage({
    ...{
      base: 'a',
      tuned: 'b',
      out: 'c',
      device: 'd',
      modules,
      saved: [{ module: 'norm', reason: 'weight has changed' }],
    },
    ...{ unchanged: [], dropped: [], norm: 9, residual: 4.5, parameters: 100, bytesWritten: 400, milliseconds: 1 },
  })
  const [spectra] = page.sections
  const figure = spectra?.figure as PageCurves
  expect(figure.panels.map(({ label, curves }) => [label, curves.map(({ name }) => name.slice(6))])).toEqual(
    ['self_attn.q_proj', 'mlp.up_proj'].map((kind) => [kind, ['0', '2', '3', '5', '6', '8', '9', '11']]),
  )
  expect(figure.panels[1]?.curves[0]?.points).toEqual([
    [1, 0.8],
    [2, 0.3],
    [3, 0.1],
  ])
  expect(await renderPage(page)).toMatch(/leave 50.00 % of the norm/)
})
