/** Files of NumPy are read as data: what NumPy has written comes back, and nothing in a file is executed. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { NumpyArray, numpyGlobals, type PickleValue, parseNpy, readPickle } from '../lib/checkpoint/pickle/index.js'

const folder = join(process.cwd(), 'test/peers/npy')
const read = (name: string) => parseNpy(readFileSync(join(folder, name)), name)
const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8')) as Record<string, object>

/** A value as expected.json has it. */
function plain(value: PickleValue): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : `${value}n`
  if (value === Number.POSITIVE_INFINITY) return 'Infinity'
  if (value instanceof Uint8Array) return [...value]
  if (Array.isArray(value)) return value.map(plain)
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, inner]) => [String(key), plain(inner)]))
  if (!(value instanceof NumpyArray)) return value
  const { dtype, shape, values } = value
  const all = [...values] as PickleValue[]
  return { dtype, shape, values: dtype === 'bool' ? all.map((one) => one === 1) : all.map(plain) }
}

const files = ['everything-2', 'everything-3', 'everything-4', 'everything-5', 'everything-numpy1']

test.each(files)('%s.npy, written by NumPy, has the values that NumPy says', (name) => {
  const array = read(`${name}.npy`)
  expect(array.shape).toEqual([])
  expect(plain((array.values as PickleValue[])[0]!)).toEqual(expected)
})

test.each(['float64', 'float32 big-endian', 'float16', 'bool', 'fortran', 'zero dimensions', 'empty'])(
  'a file with a plain array has its values: %s',
  (name) => {
    const arrays = expected.arrays as Record<string, object>
    expect(plain(read(`plain-${name.replaceAll(' ', '-')}.npy`))).toEqual(arrays[name])
  },
)

describe('refused', () => {
  const message = (bytes: Uint8Array | number[] | string) => {
    const given = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : Uint8Array.from(bytes)
    try {
      readPickle(given, numpyGlobals, 'x.pkl')
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_WEIGHTSMITH_FORMAT', file: 'x.pkl' })
      return (error as Error).message
    }
    return 'read'
  }
  const repeat = (text: string, count: number) => text.repeat(count)

  test.each([2, 3, 4, 5])('a call of os.system in protocol %i, by its name and without a run', (protocol) => {
    expect(() => read(`hostile-${protocol}.npy`)).toThrow(/it names posix\.system, which .* Nothing of it was executed/)
    expect(existsSync('/tmp/weightsmith-was-executed')).toBe(false)
  })

  test.each([
    ['an object of any class', '\x80\x02c__main__\nA\n)\x81.', /names __main__\.A/],
    ['opcodes that make objects', '\x80\x02)\x81.', /opcode NEWOBJ,/],
    ['instances of old classes', '\x80\x02(ios\nsystem\n.', /opcode INST,/],
    ['extension codes', '\x80\x02\x82\x01.', /opcode EXT1,/],
    ['persistent names', '\x80\x02Pname\n.', /opcode PERSID,/],
    ['bytes that are no opcode', '\x80\x02\xee.', /opcode 0xee,/],
    ['protocol 0', 'I1\n.', /begin with a protocol/],
    ['a later protocol', '\x80\x06N.', /the protocol 6/],
    ['a call of what is no function', '\x80\x02cnumpy\nndarray\n)R.', /numpy\.ndarray, which is no function/],
    ['a global as data', '\x80\x02cnumpy\ndtype\n.', /numpy\.dtype as data/],
    [
      'an array without its elements',
      '\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x85R.',
      /without its content/,
    ],
    ['a state for a list', '\x80\x02]]b.', /takes none/],
    ['a list as key', '\x80\x02}]Ns.', /neither a text nor a number/],
    ['a key without a value', '\x80\x02}(Nu.', /has no value/],
    ['a stack that is too short', '\x80\x02R.', /too short/],
    ['an item for a text', '\x80\x02K\x01K\x02a.', /no list/],
    ['a place that remembers nothing', '\x80\x02h\x00.', /nothing at 0/],
    ['two values', '\x80\x02NN.', /2 values/],
    ['bytes behind the end', '\x80\x02N.N', /1 bytes follow/],
    ['a text that is longer than the file', '\x80\x02X\xff\xff\xff\xff.', /cut off/],
    ['a frame that is longer than the file', `\x80\x04\x95${'\xff'.repeat(8)}N.`, /cut off/],
    ['text that is no UTF-8', '\x80\x04\x8c\x01\xff.', /no UTF-8/],
    ['a list in itself', '\x80\x02]q\x00h\x00a.', /contains itself/],
    ['deep lists', `\x80\x02${repeat(']', 100)}${repeat('a', 99)}.`, /more than 64 levels/],
    // Each level is a pair of the one before it: 2^40 values for who walks through them.
    ['lists that share', `\x80\x02)${repeat('q\x00h\x00\x86', 40)}.`, /more than 10000000/],
    ['millions of values', `\x80\x02(${repeat('N', 1_000_001)}t.`, /more than 1000000 values/],
    ['a long integer', `\x80\x02\x8b\xff\xff\x00\x00${repeat('\x01', 65535)}.`, /integer of 65535 bytes/],
  ])('%s', (_, pickle, why) => {
    expect(message(pickle)).toMatch(why)
  })

  test('one text that becomes a thousand arrays', () => {
    const text = Buffer.alloc(1e5, 'a')
    const head = Buffer.from('\x80\x02c_codecs\nencode\nX\xa0\x86\x01\x00', 'latin1')
    const call = Buffer.from('q\x01X\x06\x00\x00\x00latin1\x86q\x02R0', 'latin1')
    const again = Buffer.from('c_codecs\nencode\nh\x02R0'.repeat(1000), 'latin1')
    expect(message(Buffer.concat([head, text, call, again, Buffer.from('N.')]))).toMatch(
      /more text than its file allows/,
    )
  })

  test.each(['everything-4.npy', 'dp_selection_strategy.npy', 'plain-fortran.npy'])('%s, cut off anywhere', (name) => {
    const whole = readFileSync(join(folder, name))
    const step = Math.ceil(whole.length / 500)
    for (let length = 0; length < whole.length; length += step) {
      expect(() => parseNpy(whole.subarray(0, length), name)).toThrow(
        expect.objectContaining({ code: 'ERR_WEIGHTSMITH_FORMAT' }),
      )
    }
  })

  test.each([
    ['fields', "[('a', '<f8')]", '()'],
    ['complex numbers', "'<c16'", '()'],
    ['texts', "'<U5'", '()'],
    ['dates', "'<M8[s]'", '()'],
    ['a shape beyond its bytes', "'<f8'", '(3, )'],
    ['a shape that is none', "'<f8'", '(-1,)'],
    ['a shape beyond all numbers', "'<f8'", '(9999999999999999, 9999999999999999)'],
  ])('a .npy file of %s', (_, descr, shape) => {
    const text = `{'descr': ${descr}, 'fortran_order': False, 'shape': ${shape}, }\n`
    const head = Buffer.from(`\x93NUMPY\x01\x00\x00\x00${text}`, 'latin1')
    head.writeUInt16LE(text.length, 8)
    expect(() => parseNpy(Buffer.concat([head, Buffer.alloc(16)]), 'x.npy')).toThrow(
      expect.objectContaining({ code: 'ERR_WEIGHTSMITH_FORMAT' }),
    )
  })
})
