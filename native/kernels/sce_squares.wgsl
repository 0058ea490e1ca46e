// What SCE (arXiv 2408.07990) weighs models by: the squares of each delta, over the elements whose spread was selected.
// Coefficients: threshold key, cut lo, cut hi of the spread (see keys.wgsl). Words a block: 1 a model (f32): sum d^2.
#include "tile.wgsl"
#include "delta.wgsl"
#include "keys.wgsl"
#include "trim.wgsl"
#include "partials.wgsl"

const MODELS = 8u;
var<workgroup> rows: array<f32, 512>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  var sums = array<f32, MODELS>();
  for (var k = 0u; k < ROW_OCTETS; k++) {
    let p = place(wid, nwg, lid * ROW_OCTETS + k);
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
      sums[i] += sum4(square(a)) + sum4(square(b));
    }
  }
  for (var i = 0u; i + 1u < INPUTS; i++) { rows[i * ROWS + lid] = sums[i]; }
  workgroupBarrier();
  let block = wid.x + wid.y * nwg.x;
  let words = INPUTS - 1u;
  if (lid < words && block < table[1]) {
    var sum = 0.0;
    for (var r = 0u; r < ROWS; r++) { sum += rows[lid * ROWS + r]; }
    output[block * words + lid] = bitcast<u32>(sum);
  }
}
