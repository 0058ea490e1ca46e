/** Merges of checkpoints with thousands of tensors, which are planned in a thread so that the event loop stays free. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type MergeProgress, merge, type RecipeInput, WeightsmithError } from 'weightsmith'
import { bf16, type Raw, writeModel } from './checkpoint.js'
import { cli, script, start } from './child.js'
import { scratch } from './scratch.js'

const { folder, fresh } = scratch('thread')

const layers = 24
const experts = 64
let engine: Engine
let models: string[]
let recipe: RecipeInput

/** A mixture of experts: many small tensors. */
function experting(value: number): string {
  const tensors: Record<string, Raw> = { 'model.embed_tokens.weight': bf16([value, value]) }
  for (let layer = 0; layer < layers; layer++) {
    for (let expert = 0; expert < experts; expert++) {
      for (const module of ['gate', 'up', 'down']) {
        const name = `model.layers.${layer}.mlp.experts.${expert}.${module}_proj.weight`
        tensors[name] = bf16([value * expert, layer, value, -value])
      }
    }
  }
  return writeModel(fresh('model'), tensors, { num_hidden_layers: layers })
}

beforeAll(async () => {
  engine = await Engine.open()
  models = [1, 2, 3].map(experting)
  const [base, ...others] = models
  recipe = {
    merge_method: 'ties',
    base_model: base!,
    models: others.map((model) => ({ model, parameters: { weight: 0.5, density: 0.5 } })),
  }
})
afterAll(async () => {
  await engine.close()
})

describe('a merge of thousands of tensors', () => {
  test('is forecast there too', async () => {
    const { forecast } = await merge(engine, recipe, { out: fresh('out'), dryRun: true })
    expect(forecast.plan).toHaveLength(3 * layers * experts + 1)
    expect(forecast.groups).toMatchObject([{ tensors: 1 }, { tensors: 3 * layers * experts }])
  })

  test('leaves the event loop free, and gives what the command line gives', async () => {
    const out = join(fresh('out'), 'same')
    const events: MergeProgress[] = []
    const before = performance.eventLoopUtilization()
    const report = await merge(engine, recipe, { out, onProgress: (event) => events.push(event) })
    // Planned on the loop, most of the time would be spent there.
    expect(performance.eventLoopUtilization(before).utilization).toBeLessThan(0.3)
    expect(report).toMatchObject({ method: 'ties', tensors: { total: 3 * layers * experts + 1 } })
    expect(events.at(-1)).toMatchObject({ phase: 'finish', unit: 'bytes' })
    const file = `${fresh('recipe')}.yml`
    writeFileSync(file, JSON.stringify(recipe))
    const other = join(fresh('out'), 'same')
    expect(await cli('merge', file, other)).toMatchObject({ code: 0 })
    expect(readdirSync(out).sort()).toEqual(readdirSync(other).sort())
    for (const name of readdirSync(out)) {
      expect({ name, same: readFileSync(join(out, name)).equals(readFileSync(join(other, name))) }).toEqual({
        name,
        same: true,
      })
    }
  })

  test('rejects with the error of the thread', async () => {
    const wrong = merge(engine, { ...recipe, parameters: { lambda: 'x' } }, { out: fresh('out') })
    await expect(wrong).rejects.toBeInstanceOf(WeightsmithError)
    const taken = fresh('out')
    await merge(engine, recipe, { out: taken, sync: false })
    const again = await merge(engine, recipe, { out: taken }).catch((error: unknown) => error)
    expect(again).toBeInstanceOf(WeightsmithError)
    expect(again).toMatchObject({ code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS', file: taken })
  })

  test('ends when its signal is aborted, before or on the way', async () => {
    const aborted = { code: 'ERR_WEIGHTSMITH_ABORTED', name: 'AbortError' }
    const out = fresh('out')
    await expect(merge(engine, recipe, { out, signal: AbortSignal.abort() })).rejects.toMatchObject(aborted)
    const stop = new AbortController()
    const running = merge(engine, recipe, { out, signal: stop.signal })
    setTimeout(() => stop.abort(), 20) // by then the thread is starting or planning
    await expect(running).rejects.toMatchObject(aborted)
    expect(readdirSync(folder)).not.toContain(basename(out))
  })

  test('rejects when the engine is closed under it', async () => {
    const own = await Engine.open()
    const running = merge(own, recipe, { out: fresh('out') })
    void own.close()
    await expect(running).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_DISPOSED' })
    await own.close()
  })

  test('does not keep a process from ending', async () => {
    const body = `
      const engine = await Engine.open()
      const running = merge(engine, ${JSON.stringify(recipe)}, {
        out: process.argv[2],
        onProgress: () => process.exit(7),
      })
      await running`
    const ended = await start([script(folder, 'exit', body), fresh('out')]).ended
    expect(ended).toMatchObject({ code: 7, signal: null, stderr: '' })
  })
})
