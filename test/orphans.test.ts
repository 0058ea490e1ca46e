/** A run of tests that is killed leaves no process behind, whatever its tests are waiting for. */
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from '@jest/globals'
import { until } from './child.js'
import { scratch } from './scratch.js'

const { folder } = scratch('orphans')

/** A process that has ended and that nobody has waited for yet is a zombie: it does nothing. */
function runs(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

const onLinux = process.platform === 'linux' ? test : test.skip

onLinux('workers end with the run that started them', async () => {
  const pids = ['one', 'two'].map((name) => {
    const pid = join(folder, `${name}.pid`)
    writeFileSync(
      join(folder, `${name}.test.js`),
      `import { writeFileSync } from 'node:fs'
      test('waits', async () => {
        writeFileSync(${JSON.stringify(pid)}, String(process.pid))
        for (;;) await new Promise((wake) => setTimeout(wake, 1))
      }, 1e6)`,
    )
    return pid
  })
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  writeFileSync(join(folder, 'jest.config.mjs'), 'export default { transform: {} }')
  const { jestCommand } = (await import(pathToFileURL(resolve('scripts/jest.mjs')).href)) as { jestCommand: string[] }
  const run = spawn(process.execPath, [...jestCommand, '--maxWorkers=2'], { cwd: folder, stdio: 'ignore' })
  await until(() => pids.every((path) => existsSync(path) && readFileSync(path, 'utf8') !== ''))
  const workers = pids.map((path) => Number(readFileSync(path, 'utf8')))
  expect(workers.every(runs)).toBe(true)
  expect(workers).not.toContain(run.pid)
  run.kill('SIGKILL')
  await until(() => !workers.some(runs))
})
