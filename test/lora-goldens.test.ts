/** What adapters make of a model, against PEFT: what its merge_and_unload gives from the same files. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, foldAdapters } from 'weightsmith'
import { type Raw, readFolder, readSafetensors, values } from './checkpoint.js'
import { golden } from './goldens.js'
import { math } from './math.js'
import { scratch } from './scratch.js'

interface Sums {
  sum: number
  l2: number
  ramp: number
}

interface Merged {
  base: string
  tied: boolean
  tensors: Record<string, Sums & { delta: Sums }>
  unchanged: number
}

let engine: Engine
const { fresh } = scratch('lora-goldens')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

const merged = JSON.parse(readFileSync(golden('lora/merged.json'), 'utf8')) as Record<string, Merged>
const stored = readSafetensors(golden('lora/merged.safetensors'))
const configOf = (name: string) =>
  JSON.parse(readFileSync(join(golden(`lora/adapters/${name}`), 'adapter_config.json'), 'utf8')) as Record<
    string,
    unknown
  >
const baseOf = ({ base }: Merged) => golden(base.includes('/') ? base : `lora/${base}`)

function sumsOf(x: Float64Array, shift: Float64Array | undefined): Sums {
  const sums = { sum: 0, l2: 0, ramp: 0 }
  for (let i = 0; i < x.length; i++) {
    const value = x[i]! - (shift?.[i] ?? 0)
    sums.sum += value
    sums.l2 += value * value
    sums.ramp += value * (((i % 997) - 498) / 498)
  }
  return { ...sums, l2: math.sqrt(sums.l2) }
}

function near(what: string, got: Sums, want: Sums, factor: number): void {
  const bound = factor * 3e-6 * math.max(1, want.l2)
  for (const key of ['sum', 'l2', 'ramp'] as const) {
    const error = math.abs(got[key] - want[key])
    if (!(error <= bound)) expect({ what, key, got: got[key], want: want[key] }).toBe(`within ${bound}`)
  }
}

describe('a folded adapter', () => {
  test.each(Object.entries(merged).filter(([, one]) => typeof one.base === 'string'))(
    '%s gives the weights of PEFT',
    async (name, want) => {
      const base = baseOf(want)
      // PEFT changes the one table of a tied model for both ends; here it becomes two, and the head stays.
      const apart = name === 'tied-embedding'
      const out = fresh('out')
      await foldAdapters(engine, base, {
        ...{ out, dtype: 'float32', sync: false, checksum: 'none', untie: apart },
        adapters: [golden(`lora/adapters/${name}`)],
      })
      const [before, after] = [readFolder(base), readFolder(out)]
      const start = configOf(name).init_lora_weights
      const begun = start === 'pissa' || start === 'olora'
      const bound = begun ? 5e-6 : 1e-6
      // PEFT factorises in float32: sums of what float64 gives are up to 3.2e-5 from its own.
      const factor = begun ? 20 : 1
      const isHead = (tensor: string) => apart && tensor === 'lm_head.weight'
      let unchanged = 0
      for (const [tensor, raw] of after) {
        const [x, was] = [values(raw), before.get(tensor) && values(before.get(tensor)!)]
        const expected = want.tensors[tensor]
        if (expected === undefined || isHead(tensor)) {
          unchanged++
          expect({ tensor, same: was === undefined || same(x, was) }).toEqual({ tensor, same: true })
          continue
        }
        near(`${tensor} of ${name}`, sumsOf(x, undefined), expected, factor)
        if (was !== undefined) near(`the change of ${tensor} of ${name}`, sumsOf(x, was), expected.delta, factor)
        full(`${name}/${tensor}`, x, bound)
      }
      const missing = Object.keys(want.tensors).filter((tensor) => !after.has(tensor) && !isHead(tensor))
      expect(missing).toEqual([])
      if (!apart) expect(unchanged).toBe(want.unchanged)
      const config = JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')) as Record<string, unknown>
      expect(config.tie_word_embeddings ?? false).toBe(want.tied && !apart)
    },
  )
})

function same(x: Float64Array, y: Float64Array): boolean {
  return x.length === y.length && x.every((value, i) => value === y[i])
}

/** Compares with the values that are stored; of large matrices those are the first rows. */
function full(key: string, x: Float64Array, bound: number): void {
  const raw: Raw | undefined = stored.get(key)
  if (raw === undefined) return
  const want = values(raw)
  for (let i = 0; i < want.length; i++) {
    if (!(math.abs(x[i]! - want[i]!) <= bound)) expect({ key, i, got: x[i], want: want[i] }).toBe(`within ${bound}`)
  }
}
