// Philox4x32-10 (Salmon et al., SC 2011): a counter-based generator, so that the random number of an element depends
// on the seed, the tensor's name, the model and the element's index alone, never on tiles or devices.
// Two counters go side by side: a round waits for its products, and a CPU has time for another one meanwhile.

const FIRST = 0xd2511f53u;
const SECOND = 0xcd9e8d57u;
const STEP = vec2u(0x9e3779b9u, 0xbb67ae85u);

struct Pair { x: vec2u, y: vec2u, z: vec2u, w: vec2u }

// WGSL has no 64-bit product: it is put together from 16-bit halves.
struct Product { high: vec2u, low: vec2u }

fn product(a: u32, b: vec2u) -> Product {
  let half = vec2u(16u);
  let mask = vec2u(0xffffu);
  let al = vec2u(a & 0xffffu);
  let ah = vec2u(a >> 16u);
  let bl = b & mask;
  let bh = b >> half;
  let low = al * bl;
  let mid = ah * bl + (low >> half);
  let mid2 = al * bh + (mid & mask);
  return Product(ah * bh + (mid >> half) + (mid2 >> half), a * b);
}

// Some rounds. The key of the next one is that of the first plus `count` times the step of a round.
fn rounds(counters: Pair, key: vec2u, count: u32) -> Pair {
  var c = counters;
  var k = key;
  for (var round = 0u; round < count; round++) {
    let p = product(FIRST, c.x);
    let q = product(SECOND, c.z);
    c = Pair(q.high ^ c.y ^ vec2u(k.x), q.low, p.high ^ c.w ^ vec2u(k.y), p.low);
    k += STEP;
  }
  return c;
}

// What the numbers of counters (i, high, hash) have in common: the products of the first two rounds that do not know i.
struct Numbers { key: vec2u, hash: u32, low: u32, second: vec2u }

fn numbers(high: u32, hash: vec2u, key: vec2u) -> Numbers {
  let first = product(SECOND, hash.xx);
  let second = product(FIRST, first.high ^ vec2u(high ^ key.x));
  return Numbers(key, hash.y, first.low.x, vec2u(second.high.x, second.low.x));
}

// Those of i and i + 1.
fn draw_pair(n: Numbers, i: u32) -> Pair {
  let p = product(FIRST, vec2u(i, i + 1u));
  let q = product(SECOND, p.high ^ vec2u(n.hash ^ n.key.y));
  let k = n.key + STEP;
  let pair = Pair(q.high ^ vec2u(n.low ^ k.x), q.low, p.low ^ vec2u(n.second.x ^ k.y), vec2u(n.second.y));
  return rounds(pair, k + STEP, 8u);
}

fn philox(counter: vec4u, key: vec2u) -> vec4u {
  let c = rounds(Pair(counter.xx, counter.yy, counter.zz, counter.ww), key, 10u);
  return vec4u(c.x.x, c.y.x, c.z.x, c.w.x);
}
