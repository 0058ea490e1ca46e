/** Unlearning by neurons has the golden statistics, scores, choices and logits of a trained model that sees. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type ManuOptions, type ManuReport, manu, openModel, verify } from 'weightsmith'
import { Images } from '../lib/images/index.js'
import { loadAddon } from '../lib/native/load.js'
import { readSafetensors, values } from './checkpoint.js'
import { scratch } from './scratch.js'

const full = join(process.cwd(), 'test/goldens/tiny-llava')
const images = join(full, 'data')
const golden = JSON.parse(readFileSync(join(full, 'goldens/goldens.json'), 'utf8')) as {
  prompts: { index: number; image: number | null }[]
  streams: Record<string, { file: string; lines: number[] }>
  selected: Record<
    'stream' | 'batch',
    Record<'all' | 'last3', Record<'2' | '5', Record<'vision' | 'language', Golden>>>
  >
  accuracy: Record<string, Record<string, { correct: number; n: number; nll: number }>>
}
interface Golden {
  total: number
  k: number
  selected: number
  threshold: number
  next: number
  rows: Record<string, number[]>
}
const scores = readSafetensors(join(full, 'goldens/manu.safetensors'))
const logits = readSafetensors(join(full, 'goldens/forward.safetensors'))

const { folder, fresh } = scratch('manu')
let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

/** The lines of a golden stream, in their order, as a file. */
function stream(name: string): string {
  const { file, lines } = golden.streams[name]!
  const all = readFileSync(join(full, file), 'utf8').split('\n')
  const path = join(folder, `${name}.jsonl`)
  writeFileSync(path, lines.map((line) => all[line]).join('\n'))
  return path
}
const streams = () => ({
  forget: [stream('forget.multimodal'), stream('forget.text')],
  retain: [stream('retain.multimodal'), stream('retain.text')],
  images,
})
const run = (options: Partial<ManuOptions>) =>
  manu(engine, full, { ...streams(), ask: false, out: fresh('out'), ...options })

/** Chosen neurons by module. */
function chosen({ neurons }: ManuReport['choices'][number]): Record<string, number[]> {
  const result: Record<string, number[]> = {}
  for (const { module, neuron } of neurons) {
    result[module] ??= []
    result[module].push(neuron)
  }
  for (const list of Object.values(result)) list.sort((a, b) => a - b)
  return result
}

describe.each(['stream', 'batch'] as const)('with statistics by %s', (statistics) => {
  test.each(['all', 'last3'] as const)(
    'of the layers %s, the golden neurons are chosen by the golden scores',
    async (layers) => {
      const { choices } = await run({ statistics, layers, alpha: [2, 5] })
      for (const [i, alpha] of (['2', '5'] as const).entries()) {
        const want = golden.selected[statistics][layers][alpha]
        expect(choices[i]!.towers.map(({ tower }) => tower)).toEqual(['vision', 'language'])
        for (const { tower, total, wanted, selected, threshold, next } of choices[i]!.towers) {
          const { k, ...facts } = want[tower]
          expect({ total, wanted, selected }).toEqual({ total: facts.total, wanted: k, selected: facts.selected })
          expect(Math.abs(threshold / facts.threshold - 1)).toBeLessThan(1e-3)
          expect(Math.abs(next / facts.next - 1)).toBeLessThan(1e-3)
        }
        expect(chosen(choices[i]!)).toEqual({ ...want.vision.rows, ...want.language.rows })
        for (const { module, neuron, score, parts } of choices[i]!.neurons) {
          const all = values(scores.get(`score.${statistics}.${module}`)!)
          expect(Math.abs(score / all[neuron]! - 1)).toBeLessThan(1e-3)
          expect(parts.abs + parts.var + parts.rms + parts.freq).toBeCloseTo(score, 9)
        }
      }
    },
  )
})

test('the output has the golden logits', async () => {
  for (const layers of ['all', 'last3'] as const) {
    const { choices } = await run({ layers, alpha: 5 })
    const out = choices[0]!.out!
    await verify(out)
    const model = await openModel(engine, out)
    const sight = await Images.open(loadAddon(), model.checkpoint, 32, { root: images })
    for (const { index, image } of golden.prompts) {
      const raw = logits.get(`p${index}.input_ids`)!.bytes
      const ids = Array.from({ length: raw.length / 4 }, (_, i) => raw.readInt32LE(4 * i))
      const seen = image === null ? [] : [await sight.pixels(image)]
      const got = (await model.run(model.pack([{ ids, images: seen }]), { logits: true })).logits!
      const want = values(logits.get(`pruned.code.${layers}.alpha5.p${index}.logits`)!)
      expect(got.length).toBe(want.length)
      expect(want.reduce((most, value, i) => Math.max(most, Math.abs(got[i]! - value)), 0)).toBeLessThan(2e-4)
    }
    await model.close()
  }
})
