// Squared norms and the inner product of two inputs, 3 words a block (f32): a.a, b.b, a.b.
#include "tile.wgsl"
#include "partials.wgsl"

const WORDS = 3u;
var<workgroup> rows: array<f32, 192>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  var aa = vec4f(0.0);
  var bb = vec4f(0.0);
  var ab = vec4f(0.0);
  let start = place(wid, nwg, lid * ROW_OCTETS);
  let source0 = source(start, 0u);
  let source1 = source(start, 1u);
  for (var k = 0u; k < ROW_OCTETS; k++) {
    let p = along(start, k);
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
  rows[lid] = sum4(aa);
  rows[ROWS + lid] = sum4(bb);
  rows[2u * ROWS + lid] = sum4(ab);
  workgroupBarrier();
  let block = wid.x + wid.y * nwg.x;
  if (lid < WORDS && block < table[1]) {
    var sum = 0.0;
    for (var r = 0u; r < ROWS; r++) { sum += rows[lid * ROWS + r]; }
    output[block * WORDS + lid] = bitcast<u32>(sum);
  }
}
