/** Random numbers of the CPU are those of the kernels: Philox4x32-10, whose words do not depend on other words. */
import { expect, test } from '@jest/globals'
import { stream } from '../lib/util/philox.js'
import { randomWords } from './reference/philox.js'

const seeds = [0, 1, 0xffffffff, 2 ** 32 + 5, Number.MAX_SAFE_INTEGER]

test.each(seeds)('words of the seed %d are those of the reference, in any order', (seed) => {
  for (const name of ['', 'model.layers.0.mlp.up_proj.weight', 'größe']) {
    const wanted = [...randomWords(BigInt(seed), name, 0, 43)]
    const word = stream(name, seed)
    expect(wanted.map((_, i) => word(i))).toEqual(wanted)
    expect([17, 3, 42, 2, 40].map(word)).toEqual([17, 3, 42, 2, 40].map((i) => wanted[i]))
    // The second word of a counter is the high one of its index.
    const far = 2n ** 34n * 7n + 9n
    expect(stream(name, seed, 7)(9)).toBe(randomWords(BigInt(seed), name, 0, 1, far)[0])
  }
})

test('names and seeds have streams of their own', () => {
  const firsts = ['a', 'b', 'ab'].flatMap((name) => seeds.map((seed) => stream(name, seed)(0)))
  expect(new Set(firsts).size).toBe(firsts.length)
})
