// Exact selection by magnitude: counts the keys of |x_i - b| above a bracket and writes down those inside it. The host
// closes in on the cut from that; no sort, no histogram, one atomic for 32 elements. A model has CUTS brackets.
//
// Coefficients a bracket: lowest key of the bracket, its width (highest - lowest), shift, 1 for a bracket of one key.
// A lowest key of 0xffffffff skips it. With WEIGHTED 1 they follow the word of lines.wgsl.
// Words a block: 128 a bracket: keys above, keys inside, then either the first 126 hits in no fixed order, each
// (key - lowest) >> shift << 11 | place in the block, or, for a bracket of one key, a mask of 2,048 bits.
#include "tile.wgsl"
#include "delta.wgsl"
#include "keys.wgsl"

@group(0) @binding(1) var<storage, read_write> output: array<atomic<u32>>;

const WORDS = 128u;
const HITS = 126u;
const ROW_OCTETS = 4u;

fn add4(v: vec4u) -> u32 { return (v.x + v.y) + (v.z + v.w); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  // Rows in scattered order, so that the hits that find a slot are a fair sample of an ordered tensor too.
  let row = reverseBits(lid) >> 26u;
  var p = place(wid, nwg, row * ROW_OCTETS);
  if (p.live == 0u) { return; }
  let elements = table[p.rec] - p.octet * 8u;
  let octet = p.octet;
  for (var s = 0u; s < selections(); s++) {
    let lowest = coef_bits(p, 4u * s + WEIGHTED);
    if (lowest == 0xffffffffu) { continue; }
    let width = coef_bits(p, 4u * s + WEIGHTED + 1u);
    let low = vec4u(lowest);
    let span = vec4u(width);
    let high = vec4u(lowest + width);
    var above = vec4u(0u);
    var hits = 0u;
    for (var k = 0u; k < ROW_OCTETS; k++) {
      if (8u * k >= elements) { break; }
      p.octet = octet + k;
      let key = keys(p, s);
      var a = key.a;
      var b = key.b;
      if (elements < 8u * k + 8u) {
        a = select(vec4u(0u), a, live4(elements - 8u * k, 0u));
        b = select(vec4u(0u), b, live4(elements - 8u * k, 4u));
      }
      above += select(vec4u(0u), vec4u(1u), a > high) + select(vec4u(0u), vec4u(1u), b > high);
      let mask = select(vec4u(0u), vec4u(1u, 2u, 4u, 8u), (a - low) <= span)
        + select(vec4u(0u), vec4u(16u, 32u, 64u, 128u), (b - low) <= span);
      hits |= add4(mask) << (8u * k);
    }
    let first = (p.block * selections() + s) * WORDS;
    let more = add4(above);
    if (more != 0u) { atomicAdd(&output[first], more); }
    if (hits == 0u) { continue; }
    var slot = atomicAdd(&output[first + 1u], countOneBits(hits));
    if (coef_bits(p, 4u * s + WEIGHTED + 3u) == 1u) {
      atomicStore(&output[first + 2u + row], hits);
      continue;
    }
    // Hits are few: reading their elements again is cheaper than keeping 32 keys.
    let shift = coef_bits(p, 4u * s + WEIGHTED + 2u);
    while (hits != 0u && slot < HITS) {
      let e = countTrailingZeros(hits);
      hits &= hits - 1u;
      p.octet = octet + (e >> 3u);
      let key8 = keys(p, s);
      let key4 = select(key8.a, key8.b, (e & 4u) != 0u);
      let key = dot(key4, select(vec4u(0u), vec4u(1u), vec4u(0u, 1u, 2u, 3u) == vec4u(e & 3u)));
      atomicStore(&output[first + 2u + slot], (((key - lowest) >> shift) << 11u) | (row * 32u + e));
      slot += 1u;
    }
  }
}
