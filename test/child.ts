/** Child processes for tests that are about whole processes: how they end, what they print, what they leave behind. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

export interface Running {
  child: ChildProcess
  ended: Promise<Ended>
}

/** Starts Node with `args`; a child that hangs is killed, which shows as the signal SIGKILL. */
export function start(
  args: string[],
  options: { cwd?: string; env?: Record<string, string>; patienceMilliseconds?: number } = {},
): Running {
  const { cwd, env = {}, patienceMilliseconds = 180_000 } = options
  const child = spawn(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd,
    env: { ...process.env, ...env },
  })
  const ended = new Promise<Ended>((settle, fail) => {
    const text = { stdout: '', stderr: '' }
    for (const stream of ['stdout', 'stderr'] as const) {
      child[stream]?.setEncoding('utf8').on('data', (chunk: string) => {
        text[stream] += chunk
      })
    }
    const timer = setTimeout(() => child.kill('SIGKILL'), patienceMilliseconds)
    child.on('error', fail)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      settle({ code, signal, ...text })
    })
  })
  return { child, ended }
}

export const cliPath = resolve('dist/esm/cli/main.js')

/** The command line, run to its end. */
export function cli(...args: string[]): Promise<Ended> {
  return start([cliPath, ...args]).ended
}

/** Writes an ES module that starts with the package's exports, and gives its path. */
export function script(folder: string, name: string, body: string): string {
  const path = join(folder, `${name}.mjs`)
  const url = pathToFileURL(resolve('dist/esm/index.js')).href
  writeFileSync(
    path,
    `import { amoebaStrategy, doctor, Engine, merge, prune, score, train } from ${JSON.stringify(url)}\n${body}`,
  )
  return path
}

/** Waits until `holds`; fails after three minutes, so that no test polls for ever. */
export async function until(holds: () => boolean | Promise<boolean>, intervalMilliseconds = 1): Promise<void> {
  const deadline = Date.now() + 180_000
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`Waited three minutes in vain for ${holds}.`)
    await sleep(intervalMilliseconds)
  }
}

/** Whether the child has ended. */
export const over = ({ child }: Running) => child.exitCode !== null || child.signalCode !== null

/** Waits until `path` is there, or the child has ended. */
export function appears(path: string, running: Running): Promise<void> {
  return until(() => existsSync(path) || over(running))
}
