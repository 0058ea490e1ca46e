/** `npm run bench` on tiny checkpoints: that it prints its rows. What they say is no business of a test. */
import { readdirSync } from 'node:fs'
import { describe, expect, test } from '@jest/globals'
import { kernels, methods } from 'weightsmith'
import { start } from './child.js'
import { scratch } from './scratch.js'

interface Table {
  group: string
  title: string
  about: string[]
  rows: Record<string, unknown>[]
}

const { folder } = scratch('bench-test')

const tiny = ['--size', '64KiB', '--runs', '1', '--folder', folder]
const bench = (...args: string[]) => start(['bench/run.mjs', ...tiny, ...args]).ended

async function tables(...args: string[]): Promise<Table[]> {
  const { code, stdout, stderr } = await bench('--json', ...args)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(readdirSync(folder)).toEqual([])
  return (JSON.parse(stdout) as { tables: Table[] }).tables
}

describe('the bench', () => {
  test('has a row a kernel and type, and a row a merge method, or says why not', async () => {
    const found = await tables('--only', 'kernels', 'merge', '--device', process.env.WEIGHTSMITH_DEVICE ?? 'auto')
    const [kernelTable] = found.filter(({ group }) => group === 'kernels')
    for (const name of kernels.keys()) {
      const rows = kernelTable!.rows.filter(({ kernel }) => kernel === name)
      const left = kernelTable!.about.filter((line) => line.startsWith(`${name} `))
      expect(new Set([...rows.map(({ dtype }) => dtype), ...left.map((line) => line.split(' ')[1])]).size).toBe(2)
      for (const row of rows) expect(row).toMatchObject({ compute: expect.any(Number), call: expect.any(Number) })
    }
    const merges = found.filter(({ group }) => group === 'merge')
    const said = merges.flatMap(({ rows, about }) => [...rows.map(({ method }) => method), ...about])
    for (const name of methods.keys()) {
      expect(said.some((text) => text === name || String(text).startsWith(`${name} is left out: `))).toBe(true)
    }
    for (const name of ['linear', 'slerp', 'ties', 'dare_linear']) {
      const rows = merges.flatMap(({ rows }) => rows).filter(({ method }) => method === name)
      expect(new Set(rows.map(({ checksum }) => checksum))).toEqual(new Set(['none', 'outputs']))
      for (const row of rows) expect(Number(row.ratio)).toBeGreaterThan(0)
    }
  })

  test('has rows of memory, event loop and opening, as a table for people', async () => {
    const { code, stdout, stderr } = await bench('--only', 'memory', 'loop', 'open')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const row of [/^linear +2 +268 MB .*≤ .*: /m, /^ties +3 .*≤ 5 ms: /m, /^Engine\.open .*≤ 150 ms: /m]) {
      expect(stdout).toMatch(row)
    }
    expect(stdout).toMatch(/^kernel call of 1 KiB .*≤ 0\.3 ms: /m)
  })

  test('has rows of forward passes, and says that transformers cannot be installed', async () => {
    const [gemm, gemv, ops, model] = await tables('--only', 'forward', '--venv', 'package.json/venv')
    expect(gemm!.rows.map(({ name }) => name)).toEqual(['baseline, F32', 'gemm, F32', 'gemm, F16', 'gemm, BF16'])
    expect(gemv!.rows.map(({ dtype }) => dtype)).toEqual(['BF16', 'F16', 'F32'])
    const timed = ['mask', 'linear', 'embed', 'norm', 'rope', 'attention', 'activation', 'glu', 'add', 'cross_entropy']
    const all = ops!.rows.map(({ op }) => String(op))
    expect(all.filter((op) => !/gradient|DoRA/.test(op))).toEqual(timed)
    expect(all).toContain('attention, gradient of k and v')
    for (const { median } of ops!.rows) expect(Number(median)).toBeGreaterThan(0)
    expect(model!.rows.map(({ what }) => what)).toEqual([
      'prefill of 16 tokens',
      'decode after 16 tokens',
      'decode of 8 sequences',
    ])
    for (const { rows } of [gemm!, gemv!, model!]) for (const { rate } of rows) expect(Number(rate)).toBeGreaterThan(0)
    expect(model!.about.join('\n')).toMatch(/transformers is left out: .*package\.json/)
  })

  test('has rows of training, and says that PyTorch cannot be installed', async () => {
    const [products, attention, steps, memory] = await tables('--only', 'train', '--venv', 'package.json/venv')
    for (const { rows } of [products!, attention!, steps!])
      for (const { rate } of rows) expect(Number(rate)).toBeGreaterThan(0)
    expect(steps!.rows).toHaveLength(3)
    expect(steps!.about.join('\n')).toMatch(/PyTorch is left out: .*package\.json/)
    for (const { ratio } of memory!.rows) expect(Number(ratio)).toBeGreaterThan(0)
  })

  test('says in one line that the Python peers cannot be installed', async () => {
    // No folder can be made below a file.
    const [table] = await tables('--only', 'peers', '--venv', 'package.json/venv')
    expect(table).toMatchObject({
      rows: [],
      about: [expect.stringMatching(/^Left out: mergekit cannot be installed: /)],
    })
  })

  test('shows its flags with an example', async () => {
    const { code, stdout } = await bench('--help')
    expect(code).toBe(0)
    expect(stdout).toContain('Example:')
  })
})
