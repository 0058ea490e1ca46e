/**
 * The shape of the house: what two languages have to agree on, which rooms may know which, and that kernels compile.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, errorCodes, kernels, methods } from 'weightsmith'
import { thinKernels } from '../lib/adapters/thin_products.js'
import type { MergeMethod, ParameterScalar, ParameterSpec, Step, TensorParameters } from '../lib/merge/methods/index.js'
import { loadAddon } from '../lib/native/load.js'
import { modelKernels } from '../lib/runtime/index.js'

const border = readFileSync('lib/native/border.ts', 'utf8')

/** Names of the members of an interface of the border. */
function members(name: string): string[] {
  const body = new RegExp(`^export interface ${name} \\{\\n([^]*?)\\n\\}`, 'm').exec(border)?.[1]
  expect(body).toBeDefined()
  return [...body!.matchAll(/^ {2}(?:readonly )?(\w+)\??[:(]/gm)].map(([, member]) => member!).sort()
}

const sorted = (values: Iterable<string>) => [...values].sort()

let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

describe('the border between TypeScript and C++ names what crosses it:', () => {
  test('the functions of the addon', () => {
    expect(sorted(Object.keys(loadAddon()))).toEqual(members('NativeAddon'))
  })

  test('the members of a device, a job and a report', async () => {
    await engine.use(async ({ device }) => {
      for (const member of members('NativeDevice')) expect(device).toHaveProperty(member)
      expect(sorted(Object.keys(device.info))).toEqual(members('NativeDeviceInfo'))
      const job = device.run({
        inputs: [{ memory: new Uint8Array(4) }],
        outputs: [{ memory: new Uint8Array(4) }],
        programs: [],
        jobs: [
          {
            name: 'x',
            program: -1,
            elements: 1,
            inputs: [{ place: 0, offset: 0, dtype: 'F32' }],
            variants: [{ coefficients: [], output: { place: 0, offset: 0, dtype: 'F32' } }],
          },
        ],
        memory: 2 ** 26,
        seed: 0,
        checksum: false,
        sync: false,
      })
      expect(sorted(Object.keys(job))).toEqual(members('NativeJob'))
      const report = await job.done
      expect(sorted(Object.keys(report))).toEqual(members('NativeReport'))
      const times = /time: \{([^}]*)\}/.exec(border)![1]!
      expect(sorted(Object.keys(report.time))).toEqual(sorted([...times.matchAll(/(\w+):/g)].map(([, name]) => name!)))
    })
  })

  test('the members of a header', async () => {
    const header = await loadAddon().readHeader(resolve('demo/models/base/model.safetensors'))
    expect(sorted(Object.keys(header))).toEqual(members('NativeHeader'))
    expect(sorted(Object.keys(header.tensors[0]!))).toEqual(members('NativeTensor'))
  })

  test('the error codes', () => {
    expect(loadAddon().errorCodes).toEqual([...errorCodes])
  })

  test('the version', () => {
    expect(loadAddon().version).toBe((JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }).version)
  })
})

describe('the registry of kernels', () => {
  test('has the kernels of the addon', () => {
    const names = [
      ...kernels.keys(),
      ...Object.keys({ ...modelKernels, ...thinKernels }).map(
        (name) => `model/${name.replace(/[A-Z]/g, (capital) => `_${capital.toLowerCase()}`)}`,
      ),
    ]
    // Some have several forms, and the bench has a kernel of its own.
    const form = /_(lse|thin|subgroup|subgroup_lse|(matrix_)?\d+(_f16)?)$/
    const formed = /^(lora_subgroup|model\/(gemm|attention|thin_product|low_rank_residual))/
    const own = loadAddon().kernels.map((name) => (formed.test(name) ? name.replace(form, '') : name))
    expect(sorted(new Set(own))).toEqual(sorted([...names, 'bench/gemm']))
  })

  test('has one WGSL file a kernel, whose head says what it does', () => {
    const files = readdirSync('native/kernels/merge').filter((name) => name.endsWith('.wgsl'))
    // Some have a form for devices with subgroups.
    const names = files.map((name) => name.replace(/(_subgroup)?\.wgsl$/, ''))
    expect(sorted(kernels.keys())).toEqual(sorted(new Set(names)))
    for (const file of files) expect(readFileSync(join('native/kernels/merge', file), 'utf8')).toMatch(/^\/\//)
  })

  test('has includes that say by their names which of them have the entry point', () => {
    for (const file of readdirSync('native/kernels/include')) {
      const text = readFileSync(join('native/kernels/include', file), 'utf8')
      expect([file, /^@compute\b/m.test(text)]).toEqual([file, file.startsWith('main_')])
    }
  })

  for (const [name, spec] of kernels) {
    test(`describes ${name} so that it compiles and runs on the device`, async () => {
      const elements = 5000
      const blocks = Math.ceil(elements / 2048)
      for (const count of new Set([spec.inputs.min, Math.min(spec.inputs.max, 4), spec.inputs.max])) {
        const inputs = Array.from({ length: count }, (_, k) =>
          Float32Array.from({ length: elements }, (_, i) => Math.sin(i + k)),
        )
        const output = await engine.kernel(name).run({ inputs, coefficients: spec.example(count) })
        const words = spec.writes === 'output' ? elements : blocks * spec.writes(count)
        expect(output.length).toBe(words)
        expect(output.some((value) => value !== 0)).toBe(true)
      }
    })
  }
})

describe('every merge method', () => {
  /** Values a parameter can take, as far as they may lead to different programs. */
  function samples(spec: ParameterSpec): (ParameterScalar | undefined)[] {
    if (spec.values) return [...spec.values]
    if (spec.type === 'boolean') return [true, false]
    return spec.type === 'model' ? [undefined, 'model'] : [0.25]
  }

  function combinations(specs: ParameterSpec[]): Record<string, ParameterScalar | undefined>[] {
    return specs.reduce<Record<string, ParameterScalar | undefined>[]>(
      (all, spec) => all.flatMap((one) => samples(spec).map((value) => ({ ...one, [spec.name]: value }))),
      [{}],
    )
  }

  /** Nothing for a combination that the method refuses. */
  function stepOf(method: MergeMethod, parameters: TensorParameters): Step | undefined {
    try {
      return method.step(parameters)
    } catch (error) {
      expect(error).toHaveProperty('code', 'ERR_WEIGHTSMITH_RECIPE')
      return undefined
    }
  }

  test('uses kernels and CPU steps that exist, and every CPU step is used', () => {
    const addon = loadAddon()
    // Those that are no merge method's: `diff` reports how two checkpoints differ, `dora` is of adapters.
    const cpuSteps = new Set(['diff', 'dora'])
    for (const method of methods.values()) {
      for (const global of combinations(method.parameters.filter((spec) => spec.scope === 'global'))) {
        for (const model of combinations(method.parameters.filter((spec) => spec.scope === 'model'))) {
          for (const base of method.needsBase === 'optional' ? [true, false] : [method.needsBase]) {
            const models = Array.from({ length: method.models.min + 1 }, () => model)
            const step = stepOf(method, { global, models, base, shape: [48, 96], statistics: true })
            if (step === undefined || !('program' in step)) continue
            for (const { cpuStep, kernels } of [step, ...(step.made ?? [])].map(({ program }) => program)) {
              if (cpuStep !== undefined) cpuSteps.add(cpuStep)
              for (const { kernel } of kernels) expect(addon.kernels).toContain(kernel)
            }
          }
        }
      }
    }
    expect(sorted(cpuSteps)).toEqual(sorted(addon.cpuSteps))
  })

  test('says what it is, where it comes from and what its parameters are', () => {
    for (const [name, method] of methods) {
      expect(method.name).toBe(name)
      expect(method.about).toMatch(/^[A-Z]/)
      expect(method.source).not.toBe('')
      for (const spec of method.parameters) expect(spec.about).not.toBe('')
      expect(method.models.min).toBeLessThanOrEqual(method.models.max)
    }
  })
})

describe('the public API', () => {
  test('is a list of exports, without a line of its own', () => {
    const text = readFileSync('lib/index.ts', 'utf8').replace(/\/\*[\s\S]*?\*\//g, '')
    expect(text.replace(/^export (type )?\{[^}]*\} from '\.\/[^']+'$/gm, '').trim()).toBe('')
  })

  test('has every function that the command line calls with an engine', async () => {
    const verbs = readdirSync('lib/cli').filter((name) => name !== 'verb.ts')
    const files = verbs.map((name) => readFileSync(join('lib/cli', name), 'utf8'))
    const called = new Set(files.flatMap((text) => [...text.matchAll(/\b(\w+)\(\s*engine,/g)].map(([, name]) => name!)))
    expect(called.size).toBeGreaterThan(10)
    expect(Object.keys(await import('weightsmith'))).toEqual(expect.arrayContaining(sorted(called)))
  })
})

describe('rooms know only the rooms below them', () => {
  const load = async () =>
    (await import(pathToFileURL(resolve('scripts/rooms.mjs')).href)) as {
      roomViolations(files?: Record<string, string>): string[]
    }

  test('in lib/ and native/, and no files know each other in a circle', async () => {
    const { roomViolations } = await load()
    expect(roomViolations()).toEqual([])
  })

  test.each([
    ['a step upward in native/', { 'native/base/x.h': '#include "gpu/slot.h"' }],
    ['N-API below the addon', { 'native/io/x.cpp': '#include <napi.h>' }],
    ['a step upward in lib/', { 'lib/checkpoint/x.ts': "import { merge } from '../merge/merge.js'" }],
    ['a step upward of a type', { 'lib/data/x.ts': "import type { Batch } from '../score/index.js'" }],
    ['a room above its own rooms', { 'lib/merge/plan/x.ts': "export { merge } from '../merge.js'" }],
    ['the command line', { 'lib/report/x.ts': "import { verb } from '../cli/verb.js'" }],
    ['a loose file', { 'lib/x.ts': '' }],
    [
      'a circle',
      { 'lib/util/a.ts': "import type { B } from './b.js'", 'lib/util/b.ts': "const { a } = await import('./a.js')" },
    ],
  ])('and %s would be seen', async (_, files) => {
    const { roomViolations } = await load()
    expect(roomViolations(files)).toHaveLength(1)
  })

  test('while a step down is none', async () => {
    const { roomViolations } = await load()
    expect(roomViolations({ 'native/stream/x.cpp': '#include "io/file.h"' })).toEqual([])
    expect(roomViolations({ 'lib/merge/x.ts': "import { planMerge } from './plan/index.js'" })).toEqual([])
  })
})
