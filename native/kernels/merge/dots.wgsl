// Squared norms and the inner product of two inputs, 3 words a block (f32): a.a, b.b, a.b.
#include "tile.wgsl"
#include "partials.wgsl"
#include "block_sum.wgsl"

const WORDS = 3u;
const MOST_WORDS = WORDS;
const FEWEST = 8u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, lid * OWN_ROWS * ROW_VEC8S);
  let source0 = source(start, 0u);
  let source1 = source(start, 1u);
  var sums = vec3f(0.0);
  for (var row = 0u; row < rolled(OWN_ROWS); row++) {
    var aa = vec4f(0.0);
    var bb = vec4f(0.0);
    var ab = vec4f(0.0);
    for (var k = 0u; k < ROW_VEC8S; k++) {
      let p = along(start, row * ROW_VEC8S + k);
      if (p.live == 0u) { break; }
      let x = load_live_from(p, source0);
      let y = load_live_from(p, source1);
      aa += exact4(x.a * x.a);
      aa += exact4(x.b * x.b);
      bb += exact4(y.a * y.a);
      bb += exact4(y.b * y.b);
      ab += exact4(x.a * y.a);
      ab += exact4(x.b * y.b);
    }
    sums += vec3f(sum4(aa), sum4(bb), sum4(ab));
  }
  for (var w = 0u; w < WORDS; w++) { gathered[w * WORKGROUP + lid] = bitcast<u32>(sums[w]); }
  workgroupBarrier();
  let block = wid.x + wid.y * nwg.x;
  if (lid < WORDS && block < table[TABLE_BLOCKS]) { output[block * WORDS + lid] = bitcast<u32>(block_sum(lid)); }
}
