/**
 * Which device is taken, on machines as bare as users have them: no Vulkan driver but the bundled one, a driver that
 * Dawn refuses, one that runs no kernel, none at all. Each is a process of its own that names no device.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { beforeAll, describe, expect, test } from '@jest/globals'
import { bundledDriver } from '../lib/native/driver.js'
import { f32, readFolder, values, writeModel } from './checkpoint.js'
import { cliPath, script, start } from './child.js'
import { scratch } from './scratch.js'

interface Doctor {
  devices: { info: { device: string }; backend: string; type: string; driver: string; problem?: string }[]
  engine?: { device: Doctor['devices'][number] }
  advice: string[]
}

const { folder, fresh } = scratch('devices')
const onLinux = process.platform === 'linux' && process.arch === 'x64' ? describe : describe.skip

/** The command line on a machine with `drivers` (the Vulkan loader's variables), where nobody names a device. */
const bare = (drivers: Record<string, string>, ...args: string[]) =>
  start([cliPath, ...args], { env: { WEIGHTSMITH_DEVICE: '', ...drivers } }).ended

async function doctor(drivers: Record<string, string>): Promise<Doctor> {
  const body = `console.log(JSON.stringify(await doctor({ folder: ${JSON.stringify(folder)}, diskBytes: 2 ** 20 })))`
  const file = script(folder, 'doctor', body)
  const { code, stdout } = await start([file], { env: { WEIGHTSMITH_DEVICE: '', ...drivers } }).ended
  expect(code).toBe(0)
  return JSON.parse(stdout) as Doctor
}

let recipe: string
/** A manifest of a driver that works but for one fault. */
let faulty: (fault: string) => Record<string, string>
let none: Record<string, string>

beforeAll(async () => {
  const models = [1, 3].map((value) => writeModel(fresh('model'), { a: f32([value, value]) }))
  recipe = join(folder, 'recipe.yml')
  const entries = models.map((model) => ({ model, parameters: { weight: 1 } }))
  writeFileSync(recipe, JSON.stringify({ merge_method: 'linear', models: entries }))

  mkdirSync(join(folder, 'no-drivers'))
  none = { VK_DRIVER_FILES: join(folder, 'no-drivers') }
  const driver = await bundledDriver()
  if (driver === undefined) return
  const library = join(folder, 'driver.so')
  execFileSync('c++', ['-std=c++20', '-shared', '-fPIC', '-O1', '-o', library, 'test/faults/driver.cpp', '-ldl'])
  const { ICD } = JSON.parse(readFileSync(driver.icd, 'utf8')) as { ICD: { library_path: string; api_version: string } }
  const manifest = join(folder, 'faulty_swiftshader_icd.json')
  writeFileSync(
    manifest,
    JSON.stringify({ file_format_version: '1.0.0', ICD: { library_path: library, api_version: ICD.api_version } }),
  )
  faulty = (fault) => ({
    VK_DRIVER_FILES: manifest,
    WEIGHTSMITH_TEST_DRIVER: join(dirname(driver.icd), ICD.library_path),
    WEIGHTSMITH_TEST_DRIVER_FAULT: fault,
  })
})

onLinux('where nobody names a device,', () => {
  test.each([
    ['no driver of the system is in sight', () => ({ VK_LOADER_DRIVERS_SELECT: '*swiftshader*' })],
    ['the Vulkan loader finds no driver', () => none],
    ['the only driver is one that Dawn refuses', () => faulty('old')],
    ['the only driver runs no kernel', () => faulty('idle')],
  ])('and %s, a merge takes the bundled one and says so', async (_, drivers) => {
    const out = fresh('out')
    const { code, stderr } = await bare(drivers(), 'merge', recipe, out)
    expect({ code, stderr: stderr.trim() }).toEqual({
      code: 0,
      stderr: expect.stringMatching(/^Running without a GPU, on SwiftShader .* \(vulkan, bundled driver\)\.$/),
    })
    expect([...values(readFolder(out).get('a')!)]).toEqual([2, 2])
  })

  test('doctor lists backends that compute only', async () => {
    const { devices, engine } = await doctor(none)
    expect(devices.map(({ backend, driver }) => ({ backend, driver }))).toEqual([
      { backend: 'vulkan', driver: 'bundled' },
    ])
    expect(engine?.device.driver).toBe('bundled')
  })

  test('doctor says why Dawn refuses a driver', async () => {
    const { advice } = await doctor(faulty('old'))
    expect(advice).toContainEqual(expect.stringMatching(/^Dawn refuses a Vulkan driver .*: Vulkan .* required\.$/))
  })

  test('doctor says why a device is passed over', async () => {
    const { devices, engine, advice } = await doctor(faulty('idle'))
    expect(devices[0]!.problem).toMatch(/computes 41 \+ 1 wrongly/)
    expect(advice).toContainEqual(expect.stringMatching(/is passed over, because nothing can run on it/))
    expect(engine?.device.driver).toBe('bundled')
  })

  test('and a type is asked for that no device has, the error says what there is', async () => {
    const { code, stderr } = await bare(faulty('idle'), 'merge', recipe, fresh('out'), '--device', 'discrete')
    expect(code).toBe(1)
    expect(stderr).toMatch(/^weightsmith: No device fits 'discrete': Dawn sees .*\(cpu\); run `weightsmith doctor`/)
  })
})
