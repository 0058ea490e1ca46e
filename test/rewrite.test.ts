/** A checkpoint whose tensors are cut is one that opens and verifies, and nothing is left of a run that failed. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import { Engine, type ProgressEvent, verify } from 'weightsmith'
import { type Content, type Cut, cutTensor, openCheckpoint } from '../lib/checkpoint/index.js'
import { type RewriteOptions, rewrite } from '../lib/checkpoint/rewrite.js'
import { readFolder, writeModel } from './checkpoint.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('rewrite')
let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

/** Elements that say where they are: 100 * row + column + 1. */
const numbered = (rows: number, columns: number) =>
  Int16Array.from({ length: rows * columns }, (_, i) => 100 * Math.floor(i / columns) + (i % columns) + 1)
const raw = (values: Int16Array, shape: number[]) => ({ dtype: 'BF16', shape, bytes: Buffer.from(values.buffer) })

async function rewritten(
  cuts: Record<string, Cut | null>,
  options: Partial<RewriteOptions> & { source?: string } = {},
) {
  const { source = fresh('source') } = options
  if (!existsSync(source))
    writeModel(source, {
      matrix: raw(numbered(5, 4), [5, 4]),
      filters: raw(numbered(3, 8), [3, 2, 2, 2]),
      bias: raw(numbered(5, 1), [5]),
      other: raw(numbered(2, 3), [2, 3]),
    })
  const out = fresh('out')
  await engine.use(async (host) => {
    const checkpoint = await openCheckpoint(host.addon, source)
    const tensors = new Map<string, Content | null>()
    for (const [name, cut] of Object.entries(cuts)) {
      tensors.set(name, cut && cutTensor(checkpoint, checkpoint.tensors.get(name)!, cut))
    }
    await rewrite(host, checkpoint, { out, tensors, recipe: { verb: { a: 1 } }, about: 'It was cut.', ...options })
  })
  return out
}

const contents = (out: string) =>
  Object.fromEntries(
    [...readFolder(out)].map(([name, { shape, bytes }]) => [
      name,
      [shape, [...new Int16Array(Uint8Array.from(bytes).buffer)]] as const,
    ]),
  )

test('rows and columns are left out, or become zeros, and the rest is copied', async () => {
  const out = await rewritten({
    matrix: { rows: [0, 1, 4], columns: [3, 1], zeroRows: [1], zeroColumns: [1] },
    filters: { zeroRows: [1] },
    bias: { rows: [4, 0] },
  })
  const all = contents(out)
  expect(all.matrix).toEqual([
    [3, 2],
    [4, 0, 0, 0, 404, 0],
  ])
  expect(all.filters![0]).toEqual([3, 2, 2, 2])
  expect(all.filters![1]).toEqual([...numbered(3, 8)].map((value, i) => (i >= 8 && i < 16 ? 0 : value)))
  expect(all.bias).toEqual([[2], [401, 1]])
  expect(all.other).toEqual([[2, 3], [...numbered(2, 3)]])
})

test('it verifies, says how it came about, and may be sharded', async () => {
  const files = [{ name: 'list.json', data: '[]' }]
  const out = await rewritten({ other: null }, { shardSize: 60, config: { changed: true }, files })
  const { tensors } = await verify(out)
  expect(tensors).toBe(3)
  expect(readdirSync(out)).toEqual(expect.arrayContaining(['model.safetensors.index.json', 'list.json', 'README.md']))
  expect(JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'))).toEqual({ changed: true })
  const manifest = JSON.parse(readFileSync(join(out, 'weightsmith.json'), 'utf8')) as { recipe: object }
  expect(manifest.recipe).toEqual({ verb: { a: 1 } })
  expect(readFileSync(join(out, 'README.md'), 'utf8')).toMatch(/It was cut\./)
})

test('one that was ended goes on with the files and tensors that are finished, and gives the same bytes', async () => {
  const source = fresh('source')
  const [out, whole] = [fresh('resumed'), fresh('whole')]
  // Two tensors in the first file, and one in each of the others.
  const options = { shardSize: 60, resume: false, journalEvery: 1, source }
  await rewritten({}, { ...options, out: whole })
  for (const most of [10, 50, 60]) {
    const abort = new AbortController()
    const onProgress = ({ done }: ProgressEvent) => done > most && abort.abort()
    const ended = rewritten({}, { ...options, out, resume: most > 10, signal: abort.signal, onProgress })
    await expect(ended).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED', partial: `${out}.partial` })
    expect(existsSync(out)).toBe(false)
  }
  await expect(rewritten({}, { ...options, out })).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_OUTPUT_EXISTS')
  // All of the weights are there, and none is written again.
  const written: number[] = []
  await rewritten({}, { ...options, out, resume: true, onProgress: ({ done }) => written.push(done) })
  expect(written).toEqual([])
  expect(contents(out)).toEqual(contents(whole))
  expect((await verify(out)).tensors).toBe(4)
})

test('an abortion leaves nothing, and an index that is not there is a bug', async () => {
  const out = fresh('aborted')
  const signal = AbortSignal.abort()
  await expect(rewritten({}, { out, signal })).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_ABORTED')
  expect(existsSync(out)).toBe(false)
  expect(readdirSync(dirname(out)).filter((name) => name.includes('partial'))).toEqual([])
  await expect(rewritten({ bias: { zeroRows: [5] } })).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_INTERNAL')
})
