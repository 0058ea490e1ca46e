/** What `explain` says before a merge, held against what the merge then does. */
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { type DoctorReport, Engine, explain, merge, type RecipeInput } from 'weightsmith'
import { bf16, f32, writeModel } from './checkpoint.js'
import { cli, cliPath, start } from './child.js'
import { scratch } from './scratch.js'
import { sparseModel } from './sparse.js'

const MiB = 2 ** 20
const { folder } = scratch('explain')

const layered = (name: string, value: number) =>
  writeModel(join(folder, name), {
    'model.embed_tokens.weight': bf16([value, value]),
    'model.position_ids': { dtype: 'I64', shape: [1], bytes: Buffer.alloc(8) },
    ...Object.fromEntries(
      [0, 1, 2].flatMap((layer) =>
        ['mlp.up_proj', 'self_attn.q_proj'].map((module) => [
          `model.layers.${layer}.${module}.weight`,
          f32([value, value + layer, value]),
        ]),
      ),
    ),
  })
const [a, b] = [layered('a', 1), layered('b', 2)]
const mean = (parameters: RecipeInput['parameters']): RecipeInput => ({
  merge_method: 'linear',
  models: [{ model: a }, { model: b }],
  ...(parameters && { parameters }),
})

/** A cache without measurements; the unpacked driver is linked, because unpacking takes seconds. */
function emptyCache(): string {
  const own = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'weightsmith')
  const cache = join(folder, 'cache')
  mkdirSync(join(cache, 'weightsmith'), { recursive: true })
  for (const name of existsSync(own) ? readdirSync(own) : []) {
    if (name.startsWith('swiftshader-')) symlinkSync(join(own, name), join(cache, 'weightsmith', name))
  }
  return cache
}

describe('explain', () => {
  test('gives one row to tensors that are treated alike', async () => {
    const { groups, tensors } = await explain(mean({ weight: 0.5 }), { dtype: 'float32' })
    expect(groups.map(({ layers, modules, tensors: count }) => ({ layers, modules, count }))).toEqual([
      { layers: '', modules: ['model.embed_tokens.weight'], count: 1 },
      { layers: '', modules: ['model.position_ids'], count: 1 },
      { layers: '0-2', modules: ['mlp.up_proj.weight', 'self_attn.q_proj.weight'], count: 6 },
    ])
    expect(tensors).toEqual({ total: 8, computed: 7, copied: 1 })
    expect(groups[1]).toMatchObject({ kernels: [], bytesRead: 8, bytesWritten: 8 })
    expect(groups[1]).not.toHaveProperty('parameters')
  })

  test('shows the parameters that gradients and filters come to', async () => {
    const { groups } = await explain({
      ...mean({ weight: [{ filter: 'mlp', value: [0, 1] }, { value: 0.25 }], normalize: false }),
      dtype: 'float32',
    })
    const rows = groups
      .filter(({ layers }) => layers !== '')
      .map(({ layers, modules, parameters }) => [layers, modules.join(), parameters?.models])
    const both = (weight: number) => [{ weight }, { weight }]
    expect(rows).toEqual([
      ['0', 'mlp.up_proj.weight', both(0)],
      ['0-2', 'self_attn.q_proj.weight', both(0.25)],
      ['1', 'mlp.up_proj.weight', both(0.5)],
      ['2', 'mlp.up_proj.weight', both(1)],
    ])
    expect(groups.every(({ parameters }) => parameters === undefined || parameters.global.normalize === false)).toBe(
      true,
    )
  })

  test('foretells the bytes that the merge then reads and writes, within the same memory', async () => {
    const [base, other] = [1, 2].map((i) => sparseModel(join(folder, `large-${i}`), 6 * MiB))
    const recipe: RecipeInput = {
      merge_method: 'slerp',
      base_model: base!,
      models: [{ model: other! }],
      parameters: { t: 0.5 },
    }
    await using engine = await Engine.open({ memory: 64 * MiB })
    for (const [memory, passes] of [
      [512 * MiB, 1],
      [64 * MiB, 2],
    ] as const) {
      const told = await explain(recipe, { memory })
      const out = join(folder, `out-${passes}`)
      const { forecast } = await merge(engine, recipe, { out, memory, dryRun: true })
      const { bytesRead, bytesWritten } = await merge(engine, recipe, { out, memory, sync: false })
      expect(told.groups[0]!.passes).toBe(passes)
      expect(told).toMatchObject({ bytesRead, bytesWritten, memory, disk: { needed: bytesWritten } })
      expect(told.bytesRead).toBe(passes * 24 * MiB)
      expect(told.deviceBytes).toBeLessThanOrEqual(memory)
      expect(forecast).toMatchObject({ out, bytesRead, bytesWritten, memory })
      expect(forecast.groups).toEqual(told.groups)
    }
    const { forecast } = await merge(engine, recipe, { out: join(folder, 'own'), memory: undefined, dryRun: true })
    expect(forecast.memory).toBe(engine.memory)
  })

  test('estimates no time before something is measured, and takes what doctor has measured', async () => {
    const before = process.env.XDG_CACHE_HOME
    process.env.XDG_CACHE_HOME = emptyCache()
    try {
      const out = join(folder, 'measured')
      const blank = await explain(mean({ weight: 1 }), { out })
      expect(blank.milliseconds).toBeUndefined()
      expect(blank.sources).toEqual([expect.stringContaining('have not been measured')])
      // In a process of its own, because one that has opened the bundled driver hands its path on.
      const env = { XDG_CACHE_HOME: process.env.XDG_CACHE_HOME }
      const { stdout } = await start([cliPath, 'doctor', '--folder', folder, '--json'], { env }).ended
      const { engine } = JSON.parse(stdout) as DoctorReport
      const { milliseconds, timings, sources } = await explain(mean({ weight: 1 }), { out, dtype: 'float32' })
      expect(sources[0]).toContain(engine!.device.name)
      const { read, compute, write } = timings!
      expect(Math.min(read, compute, write)).toBeGreaterThan(0)
      expect(milliseconds).toBe(Math.max(read, compute, write))
    } finally {
      if (before === undefined) delete process.env.XDG_CACHE_HOME
      else process.env.XDG_CACHE_HOME = before
    }
  })

  test('measures the kernels and the disk with an engine', async () => {
    const before = process.env.XDG_CACHE_HOME
    await using engine = await Engine.open()
    process.env.XDG_CACHE_HOME = join(folder, 'own cache')
    try {
      const { milliseconds, sources, memory } = await explain(engine, mean({ weight: 1 }))
      expect(milliseconds).toBeGreaterThan(0)
      expect(memory).toBe(engine.memory)
      expect(sources[0]).toContain(engine.device.name)
    } finally {
      if (before === undefined) delete process.env.XDG_CACHE_HOME
      else process.env.XDG_CACHE_HOME = before
    }
  })

  test('checks an output as a merge does, where it is named', async () => {
    await expect(explain(mean({ weight: 1 }), { out: a })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT',
    })
  })

  test('refuses a recipe that a merge would refuse', async () => {
    await expect(explain({ ...mean({}), merge_method: 'soup' })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RECIPE',
    })
    await expect(explain(mean({}))).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_RECIPE' })
  })

  test('needs no device on the command line', async () => {
    const recipe = join(folder, 'recipe.yml')
    writeFileSync(recipe, JSON.stringify(mean({ weight: 1 })))
    const json = await cli('explain', recipe, '--device', 'no such device', '--json')
    expect(json).toMatchObject({ code: 0, stderr: '' })
    expect(JSON.parse(json.stdout)).toMatchObject({ method: 'linear', tensors: { total: 8 } })
    const text = await cli('explain', recipe)
    expect(text.stdout).toContain('weight 1, normalize true')
    expect(text.stdout).toContain('Memory: ')
  })
})
