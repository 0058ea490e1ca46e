// L1 norms of each delta before and after the random drop, for DARE's norm-matching rescale (mergekit's default).
// Coefficients: the words of drop.wgsl; factors are not read. Words a block: 2 a model (f32): sum|d|, sum|d| of the kept.
#include "tile.wgsl"
#include "delta.wgsl"
#include "partials.wgsl"
#include "block_sum.wgsl"
#include "draw.wgsl"
#include "drop.wgsl"

const MOST_WORDS = 32u;
override FEWEST: u32 = select(8u, 64u, RANKED == 1u); // see drop.wgsl

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, lid * OWN_ROWS * ROW_OCTETS);
  let base_source = source(start, 0u);
  for (var i = 1u; i < INPUTS; i++) {
    let model_source = source(start, i);
    let drop = drop_of(start, i);
    let ranked = ranked_drop(wid, nwg, lid, i);
    var sums = vec2f(0.0);
    for (var row = 0u; row < rolled(OWN_ROWS); row++) {
      var all = vec4f(0.0);
      var rest = vec4f(0.0);
      for (var k = 0u; k < rolled(ROW_OCTETS); k++) {
        let p = along(start, row * ROW_OCTETS + k);
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
      sums += vec2f(sum4(all), sum4(rest));
    }
    gathered[2u * (i - 1u) * WORKGROUP + lid] = bitcast<u32>(sums.x);
    gathered[(2u * i - 1u) * WORKGROUP + lid] = bitcast<u32>(sums.y);
  }
  workgroupBarrier();
  let block = wid.x + wid.y * nwg.x;
  let words = 2u * (INPUTS - 1u);
  for (var w = lid; w < words && block < table[1]; w += WORKGROUP) { output[block * words + w] = bitcast<u32>(block_sum(w)); }
}
