/** The example service, as a process of its own, under real requests. */
import { mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals'
import { type RecipeInput, verify } from 'weightsmith'
import { f32, readFolder, values, writeModel } from './checkpoint.js'
import { type Running, start, until } from './child.js'
import { scratch } from './scratch.js'
import { sparseModel } from './sparse.js'

const MiB = 2 ** 20
const { folder } = scratch('service')
const models = join(folder, 'models')
let out: string
let service: Running
let origin: string
let count = 0

beforeAll(() => {
  writeModel(join(models, 'one'), { x: f32([1, 2]) })
  writeModel(join(models, 'three'), { x: f32([3, 6]) })
  for (const name of ['large-0', 'large-1', 'large-2']) sparseModel(join(models, name), 24 * MiB)
})

beforeEach(async () => {
  out = join(folder, `out-${count++}`)
  mkdirSync(out)
  const script = resolve('examples/service/service.mjs')
  service = start([script, '--models', models, '--out', out, '--port', '0', '--memory', '256MiB'])
  const said = new Promise<string>((found) => service.child.stdout!.on('data', found))
  const line = await Promise.race([said, service.ended.then(({ stderr }) => stderr)])
  origin = /http:\/\/[\d.:]+/.exec(line)?.[0] ?? `the service said: ${line}`
})
afterEach(async () => {
  service.child.kill('SIGTERM')
  await service.ended
})

const soup = (share: number): RecipeInput => ({
  merge_method: 'linear',
  models: [
    { model: 'one', parameters: { weight: 1 - share } },
    { model: 'three', parameters: { weight: share } },
  ],
})
/** TIES reads everything, so that there is time to interrupt it. */
const long: RecipeInput = {
  merge_method: 'ties',
  base_model: 'large-0',
  models: ['large-1', 'large-2'].map((model) => ({ model, parameters: { weight: 1, density: 0.5 } })),
}

const post = (body: unknown, signal?: AbortSignal) =>
  fetch(`${origin}/merges`, { method: 'POST', body: JSON.stringify(body), ...(signal && { signal }) })
const health = async () =>
  (await (await fetch(`${origin}/health`)).json()) as { running: number; waiting: number; device: string }

interface ServerEvent {
  event: string
  data: Record<string, unknown>
}

async function* eventsOf(response: Response): AsyncGenerator<ServerEvent> {
  let text = ''
  for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
    text += chunk
    const parts = text.split('\n\n')
    text = parts.pop()!
    for (const part of parts) {
      const [, event, data] = /^event: (\w+)\ndata: (.*)$/.exec(part)!
      yield { event: event!, data: JSON.parse(data!) as Record<string, unknown> }
    }
  }
}

async function all(response: Response): Promise<ServerEvent[]> {
  const events: ServerEvent[] = []
  for await (const event of eventsOf(response)) events.push(event)
  return events
}

describe('the service', () => {
  test('answers 20 requests at once, each with its own stream and result', async () => {
    const shares = Array.from({ length: 20 }, (_, i) => i / 20)
    const streams = await Promise.all(
      shares.map(async (share, i) => all(await post({ name: `job-${i}`, recipe: soup(share) }))),
    )
    expect(streams.flat().some(({ event }) => event === 'wait')).toBe(true)
    for (const [i, events] of streams.entries()) {
      const names = events.map(({ event }) => event)
      expect(names.filter((name) => name !== 'wait' && name !== 'progress')).toEqual(['start', 'done'])
      expect(names.at(-1)).toBe('done')
      expect(events.at(-1)!.data).toMatchObject({ name: `job-${i}`, method: 'linear', tensors: { total: 1 } })
      await verify(join(out, `job-${i}`))
      expect(values(readFolder(join(out, `job-${i}`)).get('x')!)[0]).toBeCloseTo(1 + 2 * shares[i]!, 6)
    }
    expect(await health()).toMatchObject({ running: 0, waiting: 0, device: expect.any(String) })
  })

  test('reports progress, and aborts the job of a client that goes away, waiting or running', async () => {
    const clients = [new AbortController(), new AbortController(), new AbortController()]
    const responses = await Promise.all(
      clients.map((client, i) => post({ name: `gone-${i}`, recipe: long }, client.signal)),
    )
    for await (const { event, data } of eventsOf(responses[0]!)) {
      if (event !== 'progress') continue
      expect(data).toMatchObject({ bytesRead: expect.any(Number), totalWrite: 48 * MiB })
      break
    }
    await until(async () => (await health()).running === 2)
    for (const client of clients) client.abort()
    await until(async () => {
      const { running, waiting } = await health()
      return running + waiting === 0
    })
    // One that was nearly done may have come first; without the abort all of them would be there.
    const left = readdirSync(out)
    expect(left.length).toBeLessThan(clients.length)
    expect(left.filter((name) => name.endsWith('.partial'))).toEqual([])
    for (const name of left) rmSync(join(out, name), { recursive: true })
    expect((await all(await post({ name: 'after', recipe: soup(0.5) }))).at(-1)!.event).toBe('done')
  })

  test('refuses with a status what it will not start', async () => {
    const refusals: [Promise<Response>, number, RegExp][] = [
      [fetch(`${origin}/else`), 404, /POST \/merges/],
      [fetch(`${origin}/merges`), 405, /takes POST/],
      [fetch(`${origin}/merges`, { method: 'POST', body: '{' }), 400, /not valid JSON/],
      [fetch(`${origin}/merges`, { method: 'POST', body: 'x'.repeat(2 * MiB) }), 413, /at most 1048576 bytes/],
      [post({}), 400, /no recipe/],
      [post({ recipe: soup(1), name: '../up' }), 400, /name/],
      ...['/etc', '../secret', 'one/../../secret', '~/secret', 'one+../secret'].map(
        (model): [Promise<Response>, number, RegExp] => [
          post({ recipe: { merge_method: 'linear', models: [{ model, parameters: { weight: 1 } }] } }),
          400,
          /would leave the folder/,
        ],
      ),
    ]
    for (const [answer, status, message] of refusals) {
      const response = await answer
      const { error } = (await response.json()) as { error: { message: string } }
      expect({ status: response.status, message: error.message }).toEqual({
        status,
        message: expect.stringMatching(message),
      })
    }
    const events = await all(await post({ recipe: { ...soup(1), merge_method: 'stew' } }))
    expect(events.at(-1)).toMatchObject({ event: 'error', data: { code: 'ERR_WEIGHTSMITH_RECIPE' } })
    expect(readdirSync(out)).toEqual([])
  })

  test('lets running jobs finish on SIGTERM, turns waiting ones away, and exits with 0', async () => {
    const streams = [0, 1, 2].map(async (i) => all(await post({ name: `job-${i}`, recipe: long })))
    await until(async () => {
      const { running, waiting } = await health()
      return running === 2 && waiting === 1
    })
    service.child.kill('SIGTERM')
    const ends = (await Promise.all(streams)).map((events) => events.at(-1)!)
    expect(ends.map(({ event }) => event).sort()).toEqual(['done', 'done', 'error'])
    expect(ends.find(({ event }) => event === 'error')!.data.message).toContain('shutting down')
    expect(await service.ended).toMatchObject({ code: 0, signal: null, stderr: '' })
    for (const { event, data } of ends) if (event === 'done') await verify(join(out, String(data.name)))
    expect(readdirSync(out)).toHaveLength(2)
    await expect(fetch(`${origin}/health`)).rejects.toThrow()
  })
})
