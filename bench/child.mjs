/**
 * One measurement that needs a process of its own: `node child.mjs memory|loop|open|score|train <options as JSON>`.
 * Prints one JSON document.
 */
import { openSync, readFileSync, readSync } from 'node:fs'

const [what, text] = process.argv.slice(2)
const options = JSON.parse(text)
const start = performance.now()
const { Engine, foldAdapters, merge, score: scoreModel } = await import('../dist/esm/index.js')
const imported = performance.now() - start

/** Bytes of a field of the process's status, as Linux counts them. */
function status(field) {
  const kilobytes = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'))
  return 1024 * Number(kilobytes?.[1])
}

/** Of a merge by `recipe`, or of a fold of `adapters` into `model`. */
async function memory({ device, recipe, model, adapters, out, budget }) {
  const engine = await Engine.open({ device, memory: budget })
  const afterOpen = status('VmRSS')
  let anonymous = 0
  const sample = () => {
    anonymous = Math.max(anonymous, status('RssAnon'))
  }
  const timer = setInterval(sample, 5)
  const options = { out, checksum: 'none' }
  if (recipe === undefined) await foldAdapters(engine, model, { ...options, adapters })
  else await merge(engine, recipe, options)
  clearInterval(timer)
  sample()
  const peak = status('VmHWM')
  await engine.close()
  return { afterOpen, peak, anonymous }
}

async function score({ device, model, budget, scored }) {
  const engine = await Engine.open({ device, memory: budget })
  const afterOpen = status('VmRSS')
  const { milliseconds, partitions, tokens } = await scoreModel(engine, model, scored)
  const peak = status('VmHWM')
  await engine.close()
  return { afterOpen, peak, milliseconds, partitions, tokens }
}

/**
 * Nanoseconds that the main thread was ready to run and had no core: other processes' doing, and the device's own
 * threads', but no block of the event loop.
 */
function waitedForCore() {
  let file
  try {
    file = openSync('/proc/self/schedstat', 'r')
  } catch {
    return () => 0
  }
  const buffer = Buffer.alloc(64)
  return () => Number(buffer.toString('latin1', 0, readSync(file, buffer, 0, 64, 0)).split(' ')[1])
}

/**
 * The worst ticks of a timer of 1 ms: over the whole merge, and while the engine ran its plan. A tick that comes late
 * while the loop waits for events is the system's doing (a host that stops a virtual machine for 30 ms shows here), so
 * a block is no longer than the turns of the loop were busy.
 */
async function loop({ device, recipe, out }) {
  const engine = await Engine.open({ device })
  const waited = waitedForCore()
  const gaps = []
  const read = () => ({
    busy: performance.eventLoopUtilization().active,
    time: performance.now(),
    waited: waited() / 1e6,
  })
  let last = read()
  const tick = () => {
    const now = read()
    // The timer itself asks for one millisecond.
    const late = now.time - last.time - 1
    const blocked = Math.max(0, Math.min(now.busy - last.busy, late - (now.waited - last.waited)))
    gaps.push({ end: now.time, late, blocked })
    last = now
  }
  const timer = setInterval(tick, 1)
  let end = 0
  const onProgress = ({ phase }) => {
    if (phase === 'finish') end = performance.now()
  }
  const { timings } = await merge(engine, recipe, { out, checksum: 'none', onProgress })
  clearInterval(timer)
  tick()
  await engine.close()
  const worst = (some, key) => Math.max(0, ...some.map((gap) => gap[key]))
  const running = gaps.filter((gap) => gap.end - gap.late >= end - timings.run && gap.end <= end)
  return { blocked: worst(running, 'blocked'), late: worst(running, 'late'), whole: worst(gaps, 'blocked') }
}

async function open({ device }) {
  const before = performance.now()
  const engine = await Engine.open({ device })
  const opened = performance.now()
  const call = { inputs: [new Float32Array(256), new Float32Array(256)], coefficients: [0.5, 0.5] }
  await engine.kernel('linear').run(call)
  const first = performance.now()
  await engine.close()
  return { imported, open: opened - before, firstCall: first - opened }
}

/** Two steps of LoRA on sequences of 256 tokens. */
async function train({ device, model, tokens }) {
  const { checkpointOf, modelOf } = await import('../dist/esm/runtime/open_model.js')
  const { TrainableModel, trainingTimes } = await import('../dist/esm/runtime/index.js')
  const engine = await Engine.open({ device, memory: 2 ** 31 })
  const afterOpen = status('VmRSS')
  const checkpoint = await checkpointOf(engine, model)
  const { spec } = modelOf(engine, checkpoint, {})
  const adapters = spec.language.layers.flatMap(({ ops }) =>
    ops.flatMap((op) => (op.op === 'linear' ? [{ weight: op.weight, rank: 16, scale: 2 }] : [])),
  )
  const use = (work) => engine.use(work)
  const { bytes, tapes } = await TrainableModel.forecast(use, checkpoint, { tokens, adapters })
  const batch = Array.from({ length: tokens / 256 }, (_, i) => ({
    ids: Array.from({ length: 256 }, (_, j) => (7 * (256 * i + j)) % spec.vocabulary),
    targets: Array.from({ length: 256 }, (_, j) => j > 0),
  }))
  // As the dry run does.
  const { hostBytes } = await trainingTimes(use, checkpoint, { tokens, adapters }, { sequences: batch, tapes })
  const forecast = bytes + hostBytes
  const trained = await TrainableModel.open(use, checkpoint, { tokens, adapters })
  for (let step = 1; step <= 2; step++) {
    await trained.run(batch, 1 / tokens)
    const clip = Math.min(1, 1 / (await trained.gradientNorm()))
    await trained.step({ rate: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, clip, decay: () => 0 })
  }
  const peak = status('VmHWM')
  await trained.close()
  await engine.close()
  return { forecast, hostBytes, afterOpen, peak }
}

console.log(JSON.stringify(await { memory, loop, open, score, train }[what](options)))
