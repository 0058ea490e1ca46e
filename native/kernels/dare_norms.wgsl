// L1 norms of each delta before and after the random drop, for DARE's norm-matching rescale (mergekit's default).
// Coefficients: the words of drop.wgsl; factors are not read. Words a block: 2 a model (f32): sum|d|, sum|d| of the kept.
#include "tile.wgsl"
#include "delta.wgsl"
#include "partials.wgsl"
#include "draw.wgsl"
#include "drop.wgsl"

var<workgroup> rows: array<vec2f, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let block = wid.x + wid.y * nwg.x;
  let start = place(wid, nwg, lid * ROW_OCTETS);
  let base_source = source(start, 0u);
  for (var i = 1u; i < INPUTS; i++) {
    var all = vec4f(0.0);
    var rest = vec4f(0.0);
    let model_source = source(start, i);
    let drop = drop_of(start, i);
    let ranked = ranked_drop(wid, nwg, lid, i);
    for (var k = 0u; k < rolled(ROW_OCTETS); k++) {
      let p = along(start, k);
      if (p.live == 0u) { break; }
      let base = load_live_from(p, base_source);
      let x = load_live_from(p, model_source);
      let left = kept(p, drop, ranked, k);
      let a = abs(delta(x.a, base.a));
      let b = abs(delta(x.b, base.b));
      all += a;
      all += b;
      rest += select(vec4f(0.0), a, left.a);
      rest += select(vec4f(0.0), b, left.b);
    }
    rows[lid] = vec2f(sum4(all), sum4(rest));
    workgroupBarrier();
    if (lid == 0u && block < table[1]) {
      var sum = vec2f(0.0);
      for (var r = 0u; r < ROWS; r++) { sum += rows[r]; }
      let first = 2u * (block * (INPUTS - 1u) + i - 1u);
      output[first] = bitcast<u32>(sum.x);
      output[first + 1u] = bitcast<u32>(sum.y);
    }
    workgroupBarrier();
  }
}
