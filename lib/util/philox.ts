/**
 * The random numbers of the package on the CPU: Philox4x32-10, as native/kernels/include/philox.wgsl has it. A word
 * depends on the seed, the name of its stream and its index alone, so any of them can be had without those before it.
 */

type Four = [number, number, number, number]

/**
 * The words of a stream by their index, each of 32 bits: word i is one of four from the counter (i / 4, `part`, hash of
 * the name) and the key `seed`, an integer up to 2^53. Neighbours are drawn together.
 */
export function stream(name: string, seed: number, part = 0): (index: number) => number {
  const [low, high] = hash(name)
  let counter = -1
  let four: Four = [0, 0, 0, 0]
  return (index) => {
    const wanted = Math.floor(index / 4)
    if (wanted !== counter) {
      counter = wanted
      four = philox([counter, part, low, high], seed)
    }
    return four[index % 4] ?? 0
  }
}

/** Words of FNV-1a-64 of the name and model 0, as merges key it: in four parts of 16 bits, whose products are exact. */
function hash(name: string): [number, number] {
  const parts = [0x2325, 0x8422, 0x9ce4, 0xcbf2]
  for (const byte of [...new TextEncoder().encode(name), 0, 0, 0, 0, 0]) {
    parts[0] = (parts[0] ?? 0) ^ byte
    const [a = 0, b = 0, c = 0, d = 0] = parts
    // 0x100000001b3 = 2^40 + 0x1b3
    const products = [a * 0x1b3, b * 0x1b3, c * 0x1b3 + a * 256, d * 0x1b3 + b * 256]
    let carry = 0
    for (let i = 0; i < 4; i++) {
      const sum = (products[i] ?? 0) + carry
      parts[i] = sum % 65536
      carry = Math.floor(sum / 65536)
    }
  }
  const [a = 0, b = 0, c = 0, d = 0] = parts
  return [(a | (b << 16)) >>> 0, (c | (d << 16)) >>> 0]
}

function multiplyHigh(a: number, b: number): number {
  const upper = a * (b >>> 16)
  return Math.floor((upper + Math.floor((a * (b & 0xffff)) / 65536)) / 65536) >>> 0
}

/** Four words from four counter words and the two words of a seed. */
function philox(counter: Readonly<Four>, seed: number): Four {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0]
  for (let round = 0; round < 10; round++) {
    const [h0, h1] = [multiplyHigh(c0, 0xd2511f53), multiplyHigh(c2, 0xcd9e8d57)]
    const [l0, l1] = [Math.imul(c0, 0xd2511f53), Math.imul(c2, 0xcd9e8d57)]
    c0 = (h1 ^ c1 ^ k0) >>> 0
    c1 = l1 >>> 0
    c2 = (h0 ^ c3 ^ k1) >>> 0
    c3 = l0 >>> 0
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  return [c0, c1, c2, c3]
}
