/** Several results from one read of the inputs: each has to be what a run of its own gives. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine } from 'weightsmith'
import type { NativeProgram } from '../lib/native/border.js'

const elements = 3 * 2048 + 5
const values = (seed: number) => Float32Array.from({ length: elements }, (_, i) => Math.sin(seed * (i + 1)))
const inputs = [values(0.37), values(0.73), values(1.19)]

const programs: Record<string, { program: NativeProgram; coefficients: number[][]; inputs: number }> = {
  'one kernel': {
    program: { kernels: [{ kernel: 'linear', writes: 'output' }] },
    coefficients: [0.1, 0.5, 0.9, 1].map((t) => [1 - t, t, t / 2]),
    inputs: 3,
  },
  'a reduction and a kernel': {
    program: {
      cpuStep: 'slerp',
      kernels: [
        { kernel: 'dots', writes: 3 },
        { kernel: 'linear', writes: 'output' },
      ],
    },
    coefficients: [[0.2], [0.5], [0.8]],
    inputs: 2,
  },
  'kernels that are repeated as often as each variant needs': {
    program: {
      cpuStep: 'ties',
      kernels: [
        { kernel: 'select_sample', writes: 64 },
        { kernel: 'select', writes: 256 },
        { kernel: 'ties', writes: 'output' },
      ],
    },
    coefficients: [0.1, 0.5, 1].map((density) => [1, 1, 1, 0, 0.6, 0.4, density, density]),
    inputs: 3,
  },
}

describe.each([
  ['whole tensors in a tile', {}],
  ['a tensor in many tiles', { maxBufferBytes: 3 * 4 * 2048 }],
  ['staging slots', { slots: 'staging' as const }],
])('with %s', (_, options) => {
  let engine: Engine
  beforeAll(async () => {
    engine = await Engine.open({ memory: '64MiB', ...options })
  })
  afterAll(() => engine?.close())

  const run = (program: NativeProgram, count: number, coefficients: number[][]) =>
    engine.use(async ({ device, memory }) => {
      const outputs = coefficients.map(() => new Float32Array(elements))
      const report = await device.run({
        inputs: inputs.slice(0, count).map(({ buffer }) => ({ memory: new Uint8Array(buffer) })),
        outputs: outputs.map(({ buffer }) => ({ memory: new Uint8Array(buffer) })),
        programs: [program],
        jobs: [
          {
            name: 'x',
            program: 0,
            elements,
            inputs: Array.from({ length: count }, (_, place) => ({ place, offset: 0, dtype: 'F32' })),
            variants: coefficients.map((numbers, place) => ({
              coefficients: numbers,
              output: { place, offset: 0, dtype: 'F32' },
            })),
          },
        ],
        memory,
        seed: 0,
        checksum: true,
        sync: false,
      }).done
      return { outputs, report }
    })

  test.each(Object.keys(programs))('%s', async (name) => {
    const { program, coefficients, inputs: count } = programs[name]!
    const together = await run(program, count, coefficients)
    for (const [i, own] of coefficients.entries()) {
      const alone = await run(program, count, [own])
      expect(together.outputs[i]).toEqual(alone.outputs[0])
      expect(together.report.checksums[i]).toBe(alone.report.checksums[0])
      expect(together.report.bytesWritten).toBe(coefficients.length * alone.report.bytesWritten)
    }
  })

  test('the inputs are read once', async () => {
    const { program, coefficients, inputs: count } = programs['one kernel']!
    const { report } = await run(program, count, coefficients)
    expect(report.bytesRead).toBe(4 * elements * count)
  })
})
