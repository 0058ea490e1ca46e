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

const HITS = 126u;
const ROW_VEC8S = 4u;
const NONE = 0xffffffffu;
override LANES: u32 = 64u; // what suits the device (see main_vec8.wgsl)
const ROWS = 64u;

fn add4(v: vec4u) -> u32 { return (v.x + v.y) + (v.z + v.w); }

// What is above a bracket, and bits of the elements of a row that are inside it: of vec8 k, from 8 k on.
struct Found { above: vec4u, hits: u32 }

// Word `w` of a bracket.
fn bracket(p: Place, s: u32, w: u32) -> u32 { return coef_bits(p, 4u * s + WEIGHTED + w); }

fn look(found: ptr<function, Found>, p: Place, s: u32, k: u32, a: vec4u, b: vec4u) {
  // A bracket that is skipped is above all keys.
  let low = vec4u(bracket(p, s, 0u));
  let span = vec4u(bracket(p, s, 1u));
  let high = low + span;
  (*found).above += select(vec4u(0u), vec4u(1u), a > high) + select(vec4u(0u), vec4u(1u), b > high);
  let mask = select(vec4u(0u), vec4u(1u, 2u, 4u, 8u), (a - low) <= span)
    + select(vec4u(0u), vec4u(16u, 32u, 64u, 128u), (b - low) <= span);
  (*found).hits |= add4(mask) << (8u * k);
}

// `row` of 32 elements begins at `start`.
fn write(start: Place, row: u32, model: u32, s: u32, hits_of_row: u32) {
  if (hits_of_row == 0u) { return; }
  var hits = hits_of_row;
  let first = (start.block * selections() + s) * SELECT_WORDS;
  var slot = atomicAdd(&output[first + 1u], countOneBits(hits));
  if (bracket(start, s, 3u) == 1u) {
    atomicStore(&output[first + 2u + row], hits);
    return;
  }
  // Hits are few: reading their elements again is cheaper than keeping 32 keys.
  let lowest = bracket(start, s, 0u);
  let shift = bracket(start, s, 2u);
  while (hits != 0u && slot < HITS) {
    let e = countTrailingZeros(hits);
    hits &= hits - 1u;
    let key8 = keys(along(start, e >> 3u), model);
    let key4 = select(key8.a, key8.b, (e & 4u) != 0u);
    let key = dot(key4, select(vec4u(0u), vec4u(1u), vec4u(0u, 1u, 2u, 3u) == vec4u(e & 3u)));
    atomicStore(&output[first + 2u + slot], (((key - lowest) >> shift) << 11u) | (row * 32u + e));
    slot += 1u;
  }
}

fn count(start: Place, s: u32, above: vec4u) {
  let more = add4(above);
  if (more != 0u) { atomicAdd(&output[(start.block * selections() + s) * SELECT_WORDS], more); }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let origin = place(wid, nwg, 0u);
  for (var model = 0u; model < selections() / CUTS; model++) {
    var open = false;
    for (var c = 0u; c < CUTS; c++) { open = open || bracket(origin, CUTS * model + c, 0u) != NONE; }
    if (!open) { continue; }
    let s = CUTS * model;
    // A variable a cut: an array is memory to some drivers.
    var first = Found();
    var second = Found();
    var third = Found();
    for (var r = 0u; r < rolled(ROWS / LANES); r++) {
      // Rows in scattered order, so that the hits that find a slot are a fair sample of an ordered tensor too.
      let row = reverseBits(lid * (ROWS / LANES) + r) >> 26u;
      let start = along(origin, row * ROW_VEC8S);
      if (start.live == 0u) { continue; }
      first.hits = 0u;
      second.hits = 0u;
      third.hits = 0u;
      for (var k = 0u; k < ROW_VEC8S; k++) {
        let p = along(start, k);
        if (p.live == 0u) { break; }
        let key = keys(p, model);
        var a = key.a;
        var b = key.b;
        if (p.live < 8u) {
          a = select(vec4u(0u), a, live4(p.live, 0u));
          b = select(vec4u(0u), b, live4(p.live, 4u));
        }
        look(&first, p, s, k, a, b);
        if (CUTS > 1u) { look(&second, p, s + 1u, k, a, b); }
        if (CUTS > 2u) { look(&third, p, s + 2u, k, a, b); }
      }
      write(start, row, model, s, first.hits);
      if (CUTS > 1u) { write(start, row, model, s + 1u, second.hits); }
      if (CUTS > 2u) { write(start, row, model, s + 2u, third.hits); }
    }
    count(origin, s, first.above);
    if (CUTS > 1u) { count(origin, s + 1u, second.above); }
    if (CUTS > 2u) { count(origin, s + 2u, third.above); }
  }
}
