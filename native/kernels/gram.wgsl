// Inner products of every two vectors among the inputs (their Gram matrix): whatever is computed in the span of the
// inputs (norms, angles, distances, iterative means) needs nothing else of a tensor. BASE 1: the vectors are the
// differences from input 0.
// Words a block (f32): the lower triangle, row by row: v0.v0, v1.v0, v1.v1, v2.v0, ...
#include "tile.wgsl"
#include "delta.wgsl"
#include "partials.wgsl"

override BASE: u32 = 0u;
const CHUNK = 48u; // pairs between two barriers, what the workgroup's memory holds
var<workgroup> rows: array<f32, 3072>;

fn vector(p: Place, i: u32) -> Octet {
  var x = load_live(p, i + BASE);
  if (BASE == 1u) {
    let base = load_live(p, 0u);
    x = Octet(delta(x.a, base.a), delta(x.b, base.b));
  }
  return x;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let vectors = INPUTS - BASE;
  let pairs = vectors * (vectors + 1u) / 2u;
  let block = wid.x + wid.y * nwg.x;
  var pair = 0u;
  for (var i = 0u; i < vectors; i++) {
    for (var j = 0u; j <= i; j++) {
      var sum = vec4f(0.0);
      for (var k = 0u; k < ROW_OCTETS; k++) {
        let p = place(wid, nwg, lid * ROW_OCTETS + k);
        if (p.live == 0u) { break; }
        let x = vector(p, i);
        var y = x;
        if (j != i) { y = vector(p, j); }
        sum += exact4(x.a * y.a);
        sum += exact4(x.b * y.b);
      }
      rows[(pair % CHUNK) * ROWS + lid] = sum4(sum);
      pair++;
      if (pair % CHUNK != 0u && pair != pairs) { continue; }
      let first = (pair - 1u) / CHUNK * CHUNK;
      workgroupBarrier();
      if (first + lid < pair && block < table[1]) {
        var total = 0.0;
        for (var r = 0u; r < ROWS; r++) { total += rows[lid * ROWS + r]; }
        output[block * pairs + first + lid] = bitcast<u32>(total);
      }
      workgroupBarrier();
    }
  }
}
