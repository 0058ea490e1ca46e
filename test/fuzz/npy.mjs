/**
 * Fuzzes the readers of .npy files and pickles, which are TypeScript, for the seconds given: files of NumPy cut off,
 * with bits flipped, bytes put in, and opcodes in any order. An input must be read or refused with
 * ERR_WEIGHTSMITH_FORMAT, within a second and the memory that the process was given. One that is not is written to
 * the folder given, and ends with exit code 1.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { numpyGlobals, parseNpy, readPickle } from '../../dist/esm/checkpoint/pickle/index.js'

const [seconds, out] = [Number(process.argv[2]), process.argv[3]]
const folder = join(import.meta.dirname, '../peers/npy')
const corpus = readdirSync(folder)
  .filter((name) => name.endsWith('.npy'))
  .map((name) => readFileSync(join(folder, name)))
const words = [
  ...['\x80\x04', '\x80\x02', '\x95\x10\0\0\0\0\0\0\0', '(', '.', ']', '}', ')', 'a', 'e', 's', 'u', 't', 'R', 'b'],
  ...[
    '\x85',
    '\x86',
    '\x87',
    'q\0',
    'h\0',
    '\x94',
    'N',
    '\x88',
    'K\x01',
    'J\xff\xff\xff\x7f',
    '\x8a\x04\xff\xff\xff\xff',
  ],
  ...[
    'X\x02\0\0\0f8',
    'X\x01\0\0\0O',
    'X\x01\0\0\0>',
    'X\x06\0\0\0latin1',
    'C\x08abcdefgh',
    '\x96\xff\xff\xff\x7f\0\0\0\0',
  ],
  ...['cnumpy\nndarray\n', 'cnumpy\ndtype\n', 'c_codecs\nencode\n', 'cnumpy.core.multiarray\n_reconstruct\n'],
  ...[
    'cnumpy._core.multiarray\nscalar\n',
    'cnumpy._core.numeric\n_frombuffer\n',
    'cos\nsystem\n',
    '\x93',
    '0',
    '1',
    'l',
    'd',
  ],
].map((word) => Buffer.from(word, 'latin1'))

// Mulberry32: the same inputs in every run, as far as it gets.
let state = 1
function random(limit) {
  state = (state + 0x6d2b79f5) | 0
  let t = Math.imul(state ^ (state >>> 15), 1 | state)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) % limit
}
const one = (list) => list[random(list.length)]

function program() {
  const parts = Array.from({ length: 1 + random(60) }, () => one(words))
  return Buffer.concat([words[random(2)], ...parts, Buffer.from('.')])
}

function changed(file) {
  let bytes = Buffer.from(file)
  for (let i = 1 + random(4); i > 0; i--) {
    const at = random(Math.max(1, bytes.length))
    switch (random(5)) {
      case 0:
        bytes = bytes.subarray(0, at)
        break
      case 1:
        if (at < bytes.length) bytes[at] ^= 1 << random(8)
        break
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), one(words), bytes.subarray(at)])
        break
      case 3: {
        const other = one(corpus)
        bytes = Buffer.concat([bytes.subarray(0, at), other.subarray(random(other.length))])
        break
      }
      default:
        if (at < bytes.length) bytes[at] = random(256)
    }
  }
  return bytes
}

let count = 0
let read = 0
for (const end = performance.now() + seconds * 1000; performance.now() < end; count++) {
  // Small files mostly: the large one takes a hundred times as long.
  const small = corpus.filter(({ length }) => length < 4000)
  const source = random(50) === 0 ? one(corpus) : one(small)
  const input = random(4) === 0 ? program() : changed(random(2) ? source : source.subarray(128))
  const begin = performance.now()
  try {
    if (input[0] === 0x93) parseNpy(input, 'input')
    else readPickle(input, numpyGlobals, 'input')
    read++
  } catch (error) {
    if (error?.code !== 'ERR_WEIGHTSMITH_FORMAT') fail(input, error?.stack ?? String(error))
  }
  const milliseconds = performance.now() - begin
  if (milliseconds > 1000) fail(input, `it took ${Math.round(milliseconds)} ms`)
}
const { maxRSS } = process.resourceUsage()
console.log(`${count} inputs, ${read} of them read, ${Math.round(maxRSS / 1024)} MiB at most`)

function fail(input, why) {
  const path = join(out, 'npy-failure')
  writeFileSync(path, input)
  console.error(`${why}\nThe input is ${path}.`)
  process.exit(1)
}
