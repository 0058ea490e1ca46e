/** Every method and option gives mergekit's values (and PEFT's), within a declared tolerance; see test/peers. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, merge, methods } from 'weightsmith'
import { readFolder, readSafetensors, values } from './checkpoint.js'
import { cases, compare, corrections, type GoldenCase, goldens } from './peers/compare.js'

describe('golden files of other mergers', () => {
  let engine: Engine
  const folder = mkdtempSync(join(tmpdir(), 'weightsmith-parity-'))

  beforeAll(async () => {
    engine = await Engine.open({ memory: '16MiB' })
  })
  afterAll(async () => {
    await engine?.close()
    rmSync(folder, { recursive: true, force: true })
  })

  const title = ({ name, peer, differs }: GoldenCase) => `${name}: ${peer}${differs ? `, but ${differs}` : ''}`
  for (const golden of cases.filter(({ method }) => methods.has(method))) {
    test(title(golden), async () => {
      const out = join(folder, golden.name)
      await merge(engine, golden.recipe, { out, folder: goldens, checksum: 'none', sync: false })
      const { unmatched, wrong, worst } = compare(golden, readFolder(out))
      expect({ unmatched, wrong }).toEqual({ unmatched: [], wrong: [] })
      expect(worst).toBeLessThanOrEqual(golden.tolerance)
    })
  }

  test('the registry has every method that the golden files use', () => {
    const missing = [...new Set(cases.map(({ method }) => method))].filter((method) => !methods.has(method))
    expect(missing).toEqual([])
  })

  test('what a peer does otherwise has values here, and they differ from its own', () => {
    const named = cases.filter(({ differs }) => differs !== undefined).map(({ name }) => name)
    expect(Object.keys(corrections).sort()).toEqual(named.sort())
    for (const [name, tensors] of Object.entries(corrections)) {
      const theirs = readSafetensors(join(goldens, 'outputs', `${name}.safetensors`))
      for (const [tensor, right] of Object.entries(tensors)) {
        const [x, y] = [right(), values(theirs.get(tensor)!)]
        expect(x.some((value, i) => Math.abs(value - y[i]!) > 1e-6 * Math.abs(value))).toBe(true)
      }
    }
  })
})
