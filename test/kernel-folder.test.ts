/** Kernels that are read from a folder while they are worked on: WEIGHTSMITH_KERNELS, and what its messages name. */
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterEach, describe, expect, test } from '@jest/globals'
import { Engine } from 'weightsmith'
import { kernelSource } from '../lib/engine/bench.js'
import { parameterLayouts } from '../lib/native/layouts.js'
import { packParameters } from '../lib/native/parameters.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('kernel-folder')

/** A copy of native/kernels in which some files are changed, and that engines opened from now on read. */
function kernelsWith(changes: Record<string, string | ((text: string) => string)>): string {
  const folder = fresh('kernels')
  cpSync('native/kernels', folder, { recursive: true })
  for (const [name, change] of Object.entries(changes)) {
    const path = join(folder, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, typeof change === 'string' ? change : change(readFileSync(path, 'utf8')))
  }
  process.env.WEIGHTSMITH_KERNELS = folder
  return folder
}

const linear = 'merge/linear.wgsl'
const values = Float32Array.of(1, 2, 3)

async function sum(): Promise<unknown> {
  await using engine = await Engine.open()
  return await engine.kernel('linear').run({ inputs: [values], coefficients: [1] })
}

afterEach(() => {
  delete process.env.WEIGHTSMITH_KERNELS
})

describe('WEIGHTSMITH_KERNELS', () => {
  test('has no effect where it is not set or empty', async () => {
    process.env.WEIGHTSMITH_KERNELS = ''
    expect(await sum()).toEqual(values)
  })

  test('makes an edit of a kernel, or of what it includes, take effect without a build', async () => {
    kernelsWith({
      'include/tile.wgsl': (text) =>
        text.replace('bitcast<f32>(coef_bits(p, j))', '3.0 * bitcast<f32>(coef_bits(p, j))'),
    })
    expect(await sum()).toEqual(Float32Array.of(3, 6, 9))
    delete process.env.WEIGHTSMITH_KERNELS
    expect(await sum()).toEqual(values)
  })

  test('reads the same text that the addon holds', () => {
    const names = ['linear', 'model/gemm_16', 'model/rope', 'sparse']
    const embedded = names.map(kernelSource)
    kernelsWith({})
    expect(names.map(kernelSource)).toEqual(embedded)
  })

  test.each([
    ['a kernel', linear],
    ['an included file', 'include/store.wgsl'],
  ])('names the line of %s that does not compile', async (_, name) => {
    const folder = kernelsWith({ [name]: (text) => `${text}\nfn broken() { nonsense(); }\n` })
    const line = readFileSync(join(folder, name), 'utf8').split('\n').length - 1
    await expect(sum()).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_KERNEL',
      message: expect.stringContaining(`${join(folder, name)}:${line}:15 error: unresolved call target 'nonsense'`),
    })
  })

  test.each([
    [
      'a path out of the folder',
      { [linear]: '#include "../../secret.wgsl"\n' },
      /linear\.wgsl:1 includes .*secret/,
      'KERNEL',
    ],
    ['a file that is no WGSL', { [linear]: '#include "passwd"\n' }, /no name of a file/, 'KERNEL'],
    [
      'an included file that is not there',
      { [linear]: '\n#include "none.wgsl"\n' },
      /include\/none\.wgsl/,
      'NOT_FOUND',
    ],
    ['a file of more than a MiB', { [linear]: ' '.repeat(2 ** 20 + 1) }, /1048577 bytes/, 'KERNEL'],
    ['an empty file', { [linear]: '' }, /does not compile/, 'KERNEL'],
    ['a zero', { [linear]: '\0' }, /does not compile/, 'KERNEL'],
    [
      'endless includes',
      Object.fromEntries([
        [linear, '#include "a0.wgsl"\n'],
        ...Array.from({ length: 100 }, (_, i) => [`include/a${i}.wgsl`, `#include "a${i + 1}.wgsl"\n`]),
      ]),
      /more than 63 files/,
      'KERNEL',
    ],
  ])('refuses %s', async (_, changes, message, code) => {
    kernelsWith(changes)
    await expect(sum()).rejects.toMatchObject({
      code: `ERR_WEIGHTSMITH_${code}`,
      message: expect.stringMatching(message),
    })
  })

  test('refuses a kernel that is missing, or no file', async () => {
    const path = join(kernelsWith({}), linear)
    rmSync(path)
    await expect(sum()).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_NOT_FOUND',
      message: expect.stringContaining(path),
    })
    symlinkSync('/', path)
    await expect(sum()).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_IO_READ',
      message: expect.stringContaining(path),
    })
  })

  test('takes a file that includes itself once', async () => {
    kernelsWith({ 'include/store.wgsl': (text) => `#include "store.wgsl"\n#include "tile.wgsl"\n${text}` })
    expect(await sum()).toEqual(values)
  })
})

test('the source of a kernel that nobody knows is refused with those that there are', () => {
  expect(() => kernelSource('linaer')).toThrow(/no kernel "linaer"; there are .*linear/)
})

describe('the parameters of a kernel', () => {
  test('are the words of its struct, in its order whatever that of the call', () => {
    expect(Object.entries(parameterLayouts['model/rope'])).toEqual([
      ['rows', 'u32'],
      ['heads', 'u32'],
      ['size', 'u32'],
      ['back', 'u32'],
    ])
    expect(packParameters('model/rope', { size: 64, rows: 3, back: 1, heads: 2 })).toEqual([3, 2, 64, 1])
  })

  test('have the bits of floats', () => {
    const words = packParameters('model/norm', { rows: 1, width: 2, eps: 0.5, plus: -0, centered: 1 })
    expect(words).toEqual([1, 2, 0x3f000000, 0x80000000, 1])
  })

  test.each([
    ['a missing field', { rows: 1, heads: 2 }, /model\/rope got no value for its parameter size/],
    [
      'an unknown field',
      { rows: 1, heads: 2, size: 3, width: 4 },
      /no parameter width; it has rows, heads, size, back/,
    ],
    ['a fraction', { rows: 1.5, heads: 2, size: 3 }, /rows, but got 1\.5/],
    ['less than zero', { rows: -1, heads: 2, size: 3 }, /rows, but got -1/],
    ['more than a word', { rows: 2 ** 32, heads: 2, size: 3 }, /rows, but got 4294967296/],
  ])('refuse %s', (_, values, message) => {
    const wrong = values as Parameters<typeof packParameters<'model/rope'>>[1]
    expect(() => packParameters('model/rope', wrong)).toThrow(message)
  })

  test('are the same for all forms of a kernel', () => {
    for (const [name, fields] of Object.entries(parameterLayouts)) {
      const base = name.replace(/_(subgroup|(matrix_)?\d+(_f16)?)$/, '') as keyof typeof parameterLayouts
      expect(Object.entries(fields)).toEqual(Object.entries(parameterLayouts[base]))
    }
  })
})

test('the size of a block is written in one file', () => {
  const files = ['native', 'lib/merge', 'lib/prune'].flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name)),
  )
  const code = (path: string) => readFileSync(path, 'utf8').replace(/\/\/.*$|\/\*[\s\S]*?\*\//gm, '')
  const found = files.filter((path) => /\.(wgsl|cpp|h|ts)$/.test(path) && /\b204[78]u?\b/.test(code(path)))
  expect(found).toEqual(['native/kernels/include/layout.wgsl'])
})

test('codes of types and activations have names in kernels', () => {
  const folders = ['include', 'merge', 'model'].map((folder) => join('native/kernels', folder))
  const files = folders.flatMap((folder) => readdirSync(folder).map((name) => join(folder, name)))
  const literal = /(DTYPE|KIND) [!=]= \d|DTYPE: u32 = \d|case \du:/
  expect(files.filter((path) => literal.test(readFileSync(path, 'utf8')))).toEqual([])
})
