/** The package as users get it: packed, installed into empty projects, typed, and merging there. */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { beforeAll, describe, expect, test } from '@jest/globals'
import { f32, readFolder, values, writeModel } from './checkpoint.js'
import { start } from './child.js'
import { scratch } from './scratch.js'

interface Manifest {
  version: string
  bin: Record<string, string>
  dependencies: Record<string, string>
  peerDependencies: Record<string, string>
}

const { folder } = scratch('package')
const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Manifest
const windows = process.platform === 'win32'
let tarball: string
let recipe: string

beforeAll(() => {
  // Scripts are left out: the set-up that `prepack` stands for has run already, or there would be no test.
  execFileSync('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], { stdio: 'pipe', shell: windows })
  tarball = join(folder, `weightsmith-${manifest.version}.tgz`)
  const models = [1, 3].map((value) => writeModel(join(folder, `model-${value}`), { a: f32([value, value]) }))
  recipe = join(folder, 'recipe.yml')
  const entries = models.map((model) => ({ model, parameters: { weight: 1 } }))
  writeFileSync(recipe, JSON.stringify({ merge_method: 'linear', models: entries }))
})

/**
 * An empty project with the tarball unpacked where npm would put it, and links to its dependencies: needs no network.
 */
function project(name: string, type: 'module' | 'commonjs', peers = Object.keys(manifest.peerDependencies)): string {
  const path = join(folder, name)
  const installed = join(path, 'node_modules/weightsmith')
  mkdirSync(installed, { recursive: true })
  writeFileSync(join(path, 'package.json'), JSON.stringify({ name, private: true, type }))
  execFileSync('tar', ['-xzf', tarball, '-C', installed, '--strip-components=1'])
  for (const dependency of [...Object.keys(manifest.dependencies), ...peers]) {
    const link = join(path, 'node_modules', dependency)
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(resolve('node_modules', dependency), link, 'junction')
  }
  return path
}

const usage = `
async function main(out: string): Promise<number> {
  const engine: Engine = await Engine.open({ memory: '256MiB', device: process.env.WEIGHTSMITH_DEVICE })
  const limit: number | undefined = engine.device.limits.maxBufferSize
  const output: KernelOutput = await engine.kernel('linear').run({ inputs: [Float32Array.of(1)], coefficients: [2] })
  const recipe: RecipeInput = { merge_method: 'linear', models: [{ model: 'a', parameters: { weight: [0, 1] } }] }
  try {
    const report: MergeReport = await merge(engine, recipe, { out, onProgress: ({ item, phase }) => void [item, phase] })
    return report.bytesWritten + (limit ?? 0) + output.length
  } catch (error) {
    if (error instanceof WeightsmithError && error.code === 'ERR_WEIGHTSMITH_NOT_FOUND') return 0
    throw error
  } finally {
    await engine.close()
  }
}
// @ts-expect-error A merge needs a folder to write to.
const wrong = (engine: Engine) => merge(engine, 'recipe.yml', {})
// @ts-expect-error Codes are a closed list.
const code: ErrorCode = 'ERR_WEIGHTSMITH_NO_SUCH_CODE'
export { code, main, wrong }
`
const imports = `import { Engine, type ErrorCode, type KernelOutput, merge, type MergeReport, type RecipeInput, WeightsmithError } from 'weightsmith'`

describe.each([
  ['an ES module project', 'module'],
  ['a CommonJS project', 'commonjs'],
] as const)('in %s', (_, type) => {
  let path: string
  beforeAll(() => {
    path = project(type, type)
  })

  test('the package merges', async () => {
    const names = '{ Engine, merge, verify, version, WeightsmithError, kernels, methods }'
    const load = type === 'module' ? `import ${names} from 'weightsmith'` : `const ${names} = require('weightsmith')`
    writeFileSync(
      join(path, 'index.js'),
      `${load}
      async function main() {
        const engine = await Engine.open()
        await merge(engine, ${JSON.stringify(recipe)}, { out: 'merged' })
        await engine.close()
        const error = await Engine.open({ device: 'no such device' }).catch((reason) => reason)
        const { tensors } = await verify('merged')
        const coded = error instanceof WeightsmithError
        console.log(JSON.stringify({ tensors, version, coded, kernels: kernels.size > 0, methods: methods.size > 0 }))
      }
      main()\n`,
    )
    const { code, stdout } = await start(['index.js'], { cwd: path }).ended
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toEqual({
      tensors: 1,
      version: manifest.version,
      coded: true,
      kernels: true,
      methods: true,
    })
    expect([...values(readFolder(join(path, 'merged')).get('a')!)]).toEqual([2, 2])
  })

  test('the command line merges', async () => {
    const main = join('node_modules/weightsmith', manifest.bin.weightsmith!)
    expect(readFileSync(join(path, main), 'utf8')).toMatch(/^#!\/usr\/bin\/env node\n/)
    const { code } = await start([main, 'merge', recipe, 'by-command'], { cwd: path }).ended
    expect(code).toBe(0)
    expect([...values(readFolder(join(path, 'by-command')).get('a')!)]).toEqual([2, 2])
  })

  // skipLibCheck (on in what `tsc --init` writes) is for @webgpu/types, which names types of the DOM library.
  test.each([
    ['without the DOM library', ['--skipLibCheck', '--lib', 'es2022,esnext.disposable']],
    ['with the DOM library', ['--skipLibCheck']],
  ])('the types hold %s', (_, more) => {
    const file = type === 'module' ? 'usage.mts' : 'usage.cts'
    writeFileSync(join(path, file), `${imports}\n${usage}`)
    const nodeTypes = join(path, 'node_modules/@types/node')
    mkdirSync(dirname(nodeTypes), { recursive: true })
    if (!existsSync(nodeTypes)) symlinkSync(resolve('node_modules/@types/node'), nodeTypes, 'junction')
    const flags = ['--noEmit', '--strict', '--target', 'es2022', '--module', 'nodenext', '--types', 'node', ...more]
    const tsc = resolve('node_modules/typescript/bin/tsc')
    const { status, stdout } = spawnSync(process.execPath, [tsc, ...flags, file], { cwd: path, encoding: 'utf8' })
    expect({ status, stdout }).toEqual({ status: 0, stdout: '' })
  })
})

const onLinux = process.platform === 'linux' && process.arch === 'x64' ? describe : describe.skip

onLinux('on a machine without a Vulkan driver', () => {
  const drivers = { WEIGHTSMITH_DEVICE: '', VK_LOADER_DRIVERS_SELECT: '*swiftshader*' }
  const main = join('node_modules/weightsmith', manifest.bin.weightsmith!)

  test('and without the optional one, the command line says in one sentence what to install', async () => {
    const path = project('without-driver', 'module', [])
    const { code, stderr } = await start([main, 'merge', recipe, 'out'], { cwd: path, env: drivers }).ended
    const [[name, version]] = Object.entries(manifest.peerDependencies) as [[string, string]]
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr:
        "weightsmith: No device fits 'auto': Dawn sees none, and the bundled driver is not installed; " +
        `install it with: npm install ${name}@${version} [ERR_WEIGHTSMITH_NO_DEVICE]\n`,
    })
  })

  test('with it, the command line merges', async () => {
    const path = project('with-driver', 'module')
    const { code } = await start([main, 'merge', recipe, 'out'], { cwd: path, env: drivers }).ended
    expect(code).toBe(0)
    expect([...values(readFolder(join(path, 'out')).get('a')!)]).toEqual([2, 2])
  })
})

describe('the tarball', () => {
  test('carries what runs and what builds, and nothing else', () => {
    const installed = join(project('listing', 'module'), 'node_modules/weightsmith')
    const entries = readdirSync(installed)
    for (const name of ['dist', 'prebuilds', 'native', 'CMakeLists.txt', 'binding.gyp', 'LICENSE', 'README.md']) {
      expect(entries).toContain(name)
    }
    for (const name of ['lib', 'test', 'bench', 'demo', 'build', 'node_modules']) expect(entries).not.toContain(name)
    expect(existsSync(join(installed, 'prebuilds', `${process.platform}-${process.arch}`, 'weightsmith.node'))).toBe(
      true,
    )
  })

  test('runs no script when it is installed', () => {
    const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> }
    for (const name of ['preinstall', 'install', 'postinstall', 'prepare']) expect(scripts).not.toHaveProperty(name)
  })
})
