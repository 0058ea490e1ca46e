// What SCE (arXiv 2408.07990) weighs models by: the squares of each delta, over the elements whose spread was selected.
// Coefficients: threshold key, cut lo, cut hi of the spread (see keys.wgsl). Words a block: 1 a model (f32): sum d^2.
#include "tile.wgsl"
#include "delta.wgsl"
#include "keys.wgsl"
#include "trim.wgsl"
#include "partials.wgsl"
#include "block_sum.wgsl"

const MODELS = 16u;
const MOST_WORDS = MODELS;
const FEWEST = 8u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, lid * OWN_ROWS * ROW_VEC8S);
  var sums = array<f32, MODELS>();
  for (var row = 0u; row < rolled(OWN_ROWS); row++) {
    var own = array<f32, MODELS>();
    for (var k = 0u; k < ROW_VEC8S; k++) {
      let p = along(start, row * ROW_VEC8S + k);
      if (p.live == 0u) { break; }
      let base = load_live(p, 0u);
      let selected = band(p, 0u);
      let key = spread(p);
      let keep_a = inside(key.a, selected, 0u);
      let keep_b = inside(key.b, selected, 4u);
      for (var i = 0u; i + 1u < INPUTS; i++) {
        let x = load_live(p, i + 1u);
        let a = select(vec4f(0.0), delta(x.a, base.a), keep_a);
        let b = select(vec4f(0.0), delta(x.b, base.b), keep_b);
        own[i] += sum4(square(a)) + sum4(square(b));
      }
    }
    for (var i = 0u; i + 1u < INPUTS; i++) { sums[i] += own[i]; }
  }
  let words = INPUTS - 1u;
  for (var w = 0u; w < words; w++) { gathered[w * WORKGROUP + lid] = bitcast<u32>(sums[w]); }
  workgroupBarrier();
  let block = wid.x + wid.y * nwg.x;
  for (var w = lid; w < words && block < table[TABLE_BLOCKS]; w += WORKGROUP) {
    output[block * words + w] = bitcast<u32>(block_sum(w));
  }
}
