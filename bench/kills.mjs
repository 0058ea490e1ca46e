/**
 * A training whose process is killed again and again, at moments that a seed draws, some of them while a resume point
 * is written. After every kill the resume point holds what a run that was never killed held after that step, and the
 * adapter and the log end with its bytes. The tests have a shorter form of it (test/train-resume.test.ts).
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { train } from '../dist/esm/index.js'
import { stream } from '../dist/esm/util/philox.js'

const inProject = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url))
const model = inProject('demo/models/base')
const cli = inProject('dist/esm/cli/main.js')
const files = ['adapter_model.safetensors', 'adapter_config.json']
const options = {
  data: inProject('examples/imm/questions.jsonl'),
  heldOut: inProject('examples/imm/valid.jsonl'),
  ...{ steps: 16, batch: 4, rank: 4, dropout: 0.1, rate: 0.01, saveEvery: 1, heldOutEvery: 8 },
}

/** The options as words of the command line. */
const words = Object.entries(options).flatMap(([name, value]) => [
  `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`,
  `${value}`,
])

const linesOf = (file) => (existsSync(file) ? readFileSync(file, 'utf8').split('\n').length : 0)

/** The note of a resume point, and its tensors; nothing where there is none, or the run has come to its end. */
function stateOf(out) {
  if (!existsSync(`${out}.resume`)) return undefined
  const { done, tensors } = JSON.parse(readFileSync(`${out}.resume`, 'utf8'))
  if (done === null || done.ended) return undefined
  return { step: done.step, bytes: readFileSync(`${out}.resume-${tensors}.safetensors`) }
}

const leftBy = ({ out, log }) =>
  Buffer.concat([...files.map((name) => join(out, name)), log].map((path) => readFileSync(path)))

/** Kills so many processes; gives how many kills there were, and what was different. */
export async function killTrainings(engine, { count, folder, device, say }) {
  let places = 0
  const place = () => {
    const parent = join(folder, `training-${places++}`)
    mkdirSync(parent)
    return { parent, out: join(parent, 'out'), log: join(parent, 'log.jsonl') }
  }
  const states = new Map()
  const whole = place()
  const onLine = (line) => {
    const state = 'loss' in line ? stateOf(whole.out) : undefined
    if (state !== undefined) states.set(state.step, state.bytes)
  }
  await train(engine, model, { ...options, out: whole.out, log: whole.log, onLine })
  const wanted = leftBy(whole)
  const word = stream('kills of a training', 1)
  const wrong = []
  let [kills, draws, compared, writing] = [0, 0, 0, 0]
  for (let at = place(); ; ) {
    const more = ['--log', at.log, '--resume', ...(device === undefined ? [] : ['--device', device])]
    const child = spawn(process.execPath, [cli, 'train', model, at.out, ...words, ...more], { stdio: 'ignore' })
    let over = false
    const ended = new Promise((settle) => {
      child.on('close', (code, signal) => {
        over = true
        settle({ code, signal })
      })
    })
    if (kills < count) {
      const lines = linesOf(at.log) + 1 + (word(draws++) % 3)
      while (!over && linesOf(at.log) < lines) await sleep(1)
      await sleep(word(draws++) % 20)
      if (!over && child.kill('SIGKILL')) kills++
    }
    const { code, signal } = await ended
    if (code !== 0 && signal !== 'SIGKILL') wrong.push(`a process ended with the code ${code}`)
    if (['.new', '-0.safetensors', '-1.safetensors'].filter((end) => existsSync(`${at.out}.resume${end}`)).length > 1) {
      writing++
    }
    const state = stateOf(at.out)
    if (state !== undefined && states.has(state.step)) {
      compared++
      if (!states.get(state.step).equals(state.bytes)) wrong.push(`the resume point of step ${state.step} is another`)
    }
    say(
      `kills: ${String(kills).padStart(4)} of ${count}, ${state === undefined ? 'no resume point' : `after step ${state.step}`}`,
    )
    const done = existsSync(at.out) && !existsSync(`${at.out}.resume`)
    if (done && !leftBy(at).equals(wanted)) wrong.push('the adapter or the log has other bytes')
    if (wrong.length > 0 || (done && kills >= count)) break
    if (!done) continue
    rmSync(at.parent, { recursive: true })
    at = place()
  }
  const passed = wrong.length === 0 && compared > 0
  say(
    `kills: ${kills}, ${writing} of them while a resume point was written; ${compared} resume points compared, ` +
      `${passed ? 'all of them as without a kill: passed' : `${wrong.join('; ') || 'none'}: FAILED`}`,
  )
  return { name: 'kills', times: kills, compared, writing, wrong, passed }
}
