/**
 * Merges over HTTP. One request is one job: the answer is a stream of server-sent events, and a client that goes away
 * takes its job with it. README.md has the interface.
 */

import { randomUUID } from 'node:crypto'
import { createServer } from 'node:http'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Engine, merge, WeightsmithError } from 'weightsmith'
import { Queue, QueueFull } from './queue.mjs'

const largestBody = 2 ** 20

const statuses = {
  ERR_WEIGHTSMITH_RECIPE: 400,
  ERR_WEIGHTSMITH_ARGUMENT: 400,
  ERR_WEIGHTSMITH_MISSING_TENSOR: 400,
  ERR_WEIGHTSMITH_SHAPE_MISMATCH: 400,
  ERR_WEIGHTSMITH_DTYPE: 400,
  ERR_WEIGHTSMITH_NOT_FOUND: 404,
  ERR_WEIGHTSMITH_OUTPUT_EXISTS: 409,
  ERR_WEIGHTSMITH_DISK_FULL: 507,
}

class Refusal extends Error {
  constructor(status, message) {
    super(message)
    this.status = status
  }
}

/**
 * A server that merges models of the folder `models` into the folder `out`. `close` lets running jobs finish for
 * `graceMilliseconds`, turns away the waiting ones, and leaves the engine to its owner.
 */
export function createService(engine, { models, out, parallel = 2, waiting = 100, graceMilliseconds = 30_000 }) {
  const queue = new Queue({ parallel, waiting })
  const stopping = new AbortController()
  const running = new AbortController()

  const server = createServer((request, response) => {
    answer(request, response).catch((error) => fail(response, error))
  })

  async function answer(request, response) {
    const { pathname } = new URL(request.url, 'http://service')
    if (request.method === 'GET' && pathname === '/health') {
      const { name, type } = engine.device
      return reply(response, 200, { ...queue.counts, device: name, type, stopping: stopping.signal.aborted })
    }
    if (pathname !== '/merges')
      throw new Refusal(404, `There is no ${pathname}; POST /merges and GET /health are there.`)
    if (request.method !== 'POST') throw new Refusal(405, `/merges takes POST, not ${request.method}.`)
    if (stopping.signal.aborted) throw new Refusal(503, 'The service is shutting down.')
    await runJob(checkJob(await readJson(request)), response)
  }

  async function runJob({ recipe, name, dtype, seed }, response) {
    const gone = new AbortController()
    response.on('close', () => gone.abort(new Refusal(499, 'The client has gone.')))
    const wanted = AbortSignal.any([gone.signal, running.signal])
    const events = new EventStream(response)
    const work = async () => {
      events.send('start', { name })
      const options = { out: join(out, name), folder: models, dtype, seed, signal: wanted }
      const report = await merge(engine, recipe, { ...options, onProgress: (event) => events.send('progress', event) })
      const { method, tensors, bytesWritten, files, notes, nonFinite } = report
      events.send('done', { name, method, tensors, bytesWritten, files, notes, nonFinite })
      events.end()
    }
    const turn = AbortSignal.any([wanted, stopping.signal])
    try {
      await queue.run(work, { signal: turn, onWait: (before) => events.send('wait', { before }) })
    } catch (error) {
      if (!gone.signal.aborted) fail(response, error, events)
    }
  }

  async function close() {
    const closed = new Promise((done) => server.close(done))
    stopping.abort(new Refusal(503, 'The service is shutting down.'))
    const timer = setTimeout(() => running.abort(new Refusal(503, 'The service has shut down.')), graceMilliseconds)
    await queue.idle()
    clearTimeout(timer)
    server.closeIdleConnections()
    await closed
  }

  return { server, close }
}

/** The stream starts with its first event: until then a refusal can still have a status. */
class EventStream {
  #response

  constructor(response) {
    this.#response = response
  }

  send(event, data) {
    if (this.#response.destroyed) return
    if (!this.#response.headersSent) {
      this.#response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
    }
    this.#response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`)
  }

  end() {
    this.#response.end()
  }
}

function reply(response, status, body) {
  response.writeHead(status, { 'content-type': 'application/json' })
  response.end(`${JSON.stringify(body)}\n`)
}

function fail(response, error, events = new EventStream(response)) {
  const status =
    error instanceof Refusal ? error.status : error instanceof QueueFull ? 503 : (statuses[error?.code] ?? 500)
  // Paths and messages of this machine's own faults are not for clients.
  const known = error instanceof Refusal || error instanceof QueueFull || error instanceof WeightsmithError
  const problem = { code: error?.code, message: known ? error.message : 'The service has failed.' }
  if (!known) console.error(error)
  if (response.headersSent) {
    events.send('error', problem)
    events.end()
  } else if (!response.destroyed) {
    if (status === 503) response.setHeader('retry-after', '10')
    reply(response, status, { error: problem })
  }
}

async function readJson(request) {
  const chunks = []
  let size = 0
  for await (const chunk of request) {
    size += chunk.length
    if (size > largestBody) throw new Refusal(413, `A request has at most ${largestBody} bytes.`)
    chunks.push(chunk)
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'))
  } catch (error) {
    throw new Refusal(400, `The request is not valid JSON: ${error.message}.`)
  }
}

function checkJob(body) {
  const { recipe, name = randomUUID(), dtype, seed } = body ?? {}
  if (typeof recipe !== 'object' || recipe === null) throw new Refusal(400, 'The request has no recipe.')
  if (typeof name !== 'string' || !/^[\w-][\w.-]{0,99}$/.test(name) || name.endsWith('.partial')) {
    throw new Refusal(400, 'The name should be that of a folder: letters, digits, ".", "_" and "-".')
  }
  refuseEscapes(recipe)
  return { recipe, name, dtype, seed }
}

/** Models are named relative to the folder of models, and lie in it; `+` joins a model and its adapter. */
function refuseEscapes(value) {
  if (typeof value === 'string') {
    const leaves = (path) => /^[~/]|\0/.test(path) || path.split('/').includes('..')
    if (value.split('+').some(leaves)) throw new Refusal(400, `"${value}" would leave the folder of models.`)
  } else if (typeof value === 'object' && value !== null) {
    for (const inner of Object.values(value)) refuseEscapes(inner)
  }
}

async function main() {
  const { values } = parseArgs({
    options: {
      models: { type: 'string', default: 'models' },
      out: { type: 'string', default: 'out' },
      port: { type: 'string', default: '8080' },
      host: { type: 'string', default: '127.0.0.1' },
      parallel: { type: 'string', default: '2' },
      memory: { type: 'string', default: '1GiB' },
    },
  })
  const engine = await Engine.open({ memory: values.memory })
  const folders = { models: resolve(values.models), out: resolve(values.out) }
  const { server, close } = createService(engine, { ...folders, parallel: Number(values.parallel) })
  server.listen(Number(values.port), values.host, () => {
    console.log(`listening on http://${values.host}:${server.address().port} (${engine.device.name})`)
  })
  const stop = async () => {
    await close()
    await engine.close()
  }
  process.once('SIGTERM', stop)
  process.once('SIGINT', stop)
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) await main()
