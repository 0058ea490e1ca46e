/** The random numbers of the file format: Philox4x32-10 keyed by seed, tensor name, model and element index. */

import { math } from '../math.js'

export interface PhiloxVector {
  counter: readonly [number, number, number, number]
  key: readonly [number, number]
  output: readonly [number, number, number, number]
}

/** The published known answers (Random123, kat_vectors: philox4x32 10). */
export const philoxVectors: readonly PhiloxVector[] = [
  {
    counter: [0, 0, 0, 0],
    key: [0, 0],
    output: [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
  },
  {
    counter: [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
    key: [0xffffffff, 0xffffffff],
    output: [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
  },
  {
    counter: [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
    key: [0xa4093822, 0x299f31d0],
    output: [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  },
]

const low = (value: bigint) => Number(BigInt.asUintN(32, value))
const high = (value: bigint) => Number(BigInt.asUintN(32, value >> 32n))

/** High word of the 64-bit product; exact because one factor is split so that every term stays below 2^53. */
function multiplyHigh(a: number, b: number): number {
  const lower = a * (b & 0xffff)
  const upper = a * (b >>> 16)
  return math.floor((upper + math.floor(lower / 65536)) / 65536) >>> 0
}

/** Four random words from four counter words and two key words. */
export function philox(counter: ArrayLike<number>, key: ArrayLike<number>): [number, number, number, number] {
  let [c0, c1, c2, c3] = [counter[0] ?? 0, counter[1] ?? 0, counter[2] ?? 0, counter[3] ?? 0]
  let [k0, k1] = [key[0] ?? 0, key[1] ?? 0]
  for (let round = 0; round < 10; round++) {
    const h0 = multiplyHigh(c0, 0xd2511f53)
    const l0 = math.imul(c0, 0xd2511f53)
    const h1 = multiplyHigh(c2, 0xcd9e8d57)
    const l1 = math.imul(c2, 0xcd9e8d57)
    c0 = (h1 ^ c1 ^ k0) >>> 0
    c1 = l1 >>> 0
    c2 = (h0 ^ c3 ^ k1) >>> 0
    c3 = l0 >>> 0
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  return [c0, c1, c2, c3]
}

/** FNV-1a-64 of `name`, a zero byte and the model's ordinal (u32, little-endian). */
export function tensorKey(name: string, ordinal: number): bigint {
  const ordinalBytes = [0, 8, 16, 24].map((shift) => (ordinal >>> shift) & 0xff)
  let hash = 0xcbf29ce484222325n
  for (const byte of [...new TextEncoder().encode(name), 0, ...ordinalBytes]) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n)
  }
  return hash
}

/** The random words of elements 0 .. count-1 (or from `first` on) of one tensor and model. */
export function randomWords(seed: bigint, name: string, ordinal: number, count: number, first = 0n): Uint32Array {
  const key = [low(seed), high(seed)]
  const hash = tensorKey(name, ordinal)
  const words = new Uint32Array(count)
  let counter = -1n
  let four: ArrayLike<number> = []
  for (let i = 0; i < count; i++) {
    const index = first + BigInt(i)
    if (index >> 2n !== counter) {
      counter = index >> 2n
      four = philox([low(counter), high(counter), low(hash), high(hash)], key)
    }
    words[i] = four[Number(index & 3n)] ?? 0
  }
  return words
}

/** Which elements DARE keeps at drop probability `p`. */
export function keptByDrop(words: Uint32Array, p: number): boolean[] {
  const limit = math.floor(p * 2 ** 32)
  return Array.from(words, (word) => word >= limit)
}
