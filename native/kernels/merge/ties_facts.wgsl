// What the trimmed deltas of a tensor tell before they are merged: L1 norms before and after the trim (to restore the
// norm) and how many elections each sign wins (to settle the drawn ones). Coefficients: as for `ties`; the scale is not
// read. Words a block: 2 a model (f32): sum|d|, sum|d| of the kept; then 2 (u32): elements with a positive sum of
// deltas, with a negative one.
#include "tile.wgsl"
#include "delta.wgsl"
#include "partials.wgsl"
#include "block_sum.wgsl"
#include "trim.wgsl"

const MODELS = 16u;
const MOST_WORDS = 2u * MODELS + 2u;
const FEWEST = 8u;

fn count4(mask: vec4<bool>) -> u32 { return dot(select(vec4u(0u), vec4u(1u), mask), vec4u(1u)); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, lid * OWN_ROWS * ROW_VEC8S);
  let words = band_words() + 1u;
  var norms = array<vec2f, MODELS>();
  var wins = vec2u(0u);
  for (var row = 0u; row < rolled(OWN_ROWS); row++) {
    var own = array<vec2f, MODELS>();
    for (var k = 0u; k < ROW_VEC8S; k++) {
      let p = along(start, row * ROW_VEC8S + k);
      if (p.live == 0u) { break; }
      let base = load_live(p, 0u);
      var sum = Vec8();
      for (var i = 0u; i + 1u < INPUTS; i++) {
        let x = load_live(p, i + 1u);
        let a = delta(x.a, base.a);
        let b = delta(x.b, base.b);
        let kept = band(p, words * i);
        let c = trim(a, kept, 0u);
        let d = trim(b, kept, 4u);
        own[i] += vec2f(sum4(abs(a)), sum4(abs(c)));
        own[i] += vec2f(sum4(abs(b)), sum4(abs(d)));
        sum.a += c;
        sum.b += d;
      }
      let s = bitcast<vec4f>(flush(bitcast<vec4u>(sum.a)));
      let t = bitcast<vec4f>(flush(bitcast<vec4u>(sum.b)));
      wins += vec2u(count4(s > vec4f(0.0)) + count4(t > vec4f(0.0)), count4(s < vec4f(0.0)) + count4(t < vec4f(0.0)));
    }
    for (var i = 0u; i + 1u < INPUTS; i++) { norms[i] += own[i]; }
  }
  let floats = 2u * (INPUTS - 1u);
  for (var i = 0u; i + 1u < INPUTS; i++) {
    gathered[2u * i * WORKGROUP + lid] = bitcast<u32>(norms[i].x);
    gathered[(2u * i + 1u) * WORKGROUP + lid] = bitcast<u32>(norms[i].y);
  }
  gathered[floats * WORKGROUP + lid] = wins.x;
  gathered[(floats + 1u) * WORKGROUP + lid] = wins.y;
  workgroupBarrier();
  let block = wid.x + wid.y * nwg.x;
  for (var w = lid; w < floats + 2u && block < table[TABLE_BLOCKS]; w += WORKGROUP) {
    var result = block_count(w).x;
    if (w < floats) { result = bitcast<u32>(block_sum(w)); }
    output[block * (floats + 2u) + w] = result;
  }
}
