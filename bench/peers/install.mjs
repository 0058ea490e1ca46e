/** Installs the Python peers into a virtual environment of their own, once. */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const requirements = fileURLToPath(new URL('requirements.txt', import.meta.url))
const usualFolder = () => join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'weightsmith', 'peers')

/** Ends with this process: pip would go on for minutes. */
const running = new Set()
process.on('exit', () => {
  for (const child of running) child.kill()
})

/** Runs a command to its end; its output is kept for the message of a failure. */
export function run(file, args, options = {}) {
  return new Promise((done, fail) => {
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options })
    running.add(child)
    let stdout = ''
    let tail = ''
    const keep = (chunk) => {
      tail = (tail + chunk).slice(-2000)
    }
    child.stdout.on('data', (chunk) => {
      stdout += chunk
      keep(chunk)
    })
    child.stderr.on('data', keep)
    child.on('error', fail)
    child.on('close', (status) => {
      running.delete(child)
      if (status === 0) return done(stdout)
      fail(new Error(`${file} failed: ${tail.trim().split('\n').at(-1)}`))
    })
  })
}

/** The folder of the peers' commands. Rejects where there is no Python or pip cannot install them. */
export async function installPeers(folder = usualFolder(), say = () => {}) {
  const bin = join(folder, 'bin')
  if (existsSync(join(bin, 'mergekit-yaml'))) return bin
  say('peers: installing mergekit with pip (a few GB, some minutes)')
  mkdirSync(dirname(folder), { recursive: true })
  try {
    await run('python3', ['-m', 'venv', folder])
    await run(join(bin, 'python'), ['-m', 'pip', 'install', '--quiet', '--requirement', requirements])
  } catch (error) {
    rmSync(folder, { recursive: true, force: true })
    throw error
  }
  return bin
}
