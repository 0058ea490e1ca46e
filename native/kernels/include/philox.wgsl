// Philox4x32-10 (Salmon et al., SC 2011): a counter-based generator, so that the random number of an element depends
// on the seed, the tensor's name, the model and the element's index alone, never on tiles or devices.
// WGSL has no 64-bit product: the high word is put together from 16-bit halves.

fn mul_high(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let mid = ah * bl + ((al * bl) >> 16u);
  let mid2 = al * bh + (mid & 0xffffu);
  return ah * bh + (mid >> 16u) + (mid2 >> 16u);
}

fn philox(counter: vec4u, key: vec2u) -> vec4u {
  var c = counter;
  var k = key;
  for (var round = 0u; round < 10u; round++) {
    let h0 = mul_high(0xd2511f53u, c.x);
    let l0 = 0xd2511f53u * c.x;
    let h1 = mul_high(0xcd9e8d57u, c.z);
    let l1 = 0xcd9e8d57u * c.z;
    c = vec4u(h1 ^ c.y ^ k.x, l1, h0 ^ c.w ^ k.y, l0);
    k += vec2u(0x9e3779b9u, 0xbb67ae85u);
  }
  return c;
}

struct Draw { a: vec4u, b: vec4u }

// Where the random numbers of an input of a segment come from: seed, hash of tensor name and model, first flat index.
struct Stream { key: vec2u, hash: vec2u, lo: u32, hi: u32 }

fn stream_of(p: Place, i: u32) -> Stream {
  let hash = p.rec + 6u + INPUTS + 2u * i;
  return Stream(vec2u(table[5], table[6]), vec2u(table[hash], table[hash + 1u]), table[p.rec + 2u], table[p.rec + 3u]);
}

// The random words of an octet: counter = (element index >> 2, hash).
fn draw_from(s: Stream, octet: u32) -> Draw {
  let first = s.lo + octet * 8u;
  let first_hi = s.hi + select(0u, 1u, first < s.lo);
  let quad = (first >> 2u) | (first_hi << 30u);
  let quad_hi = first_hi >> 2u;
  // The first index of an octet is a multiple of 8, so `quad + 1` cannot carry.
  return Draw(philox(vec4u(quad, quad_hi, s.hash), s.key), philox(vec4u(quad + 1u, quad_hi, s.hash), s.key));
}

fn draw(p: Place, i: u32) -> Draw { return draw_from(stream_of(p, i), p.octet); }
