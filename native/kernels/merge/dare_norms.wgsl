// L1 norms of each delta before and after the random drop, for DARE's norm-matching rescale (mergekit's default).
// Coefficients: the words of drop.wgsl; factors are not read. Words a block: 2 a model (f32): sum|d|, sum|d| of the
// kept; with MASKS 1 then the masks of its 64 rows.
#include "tile.wgsl"
#include "delta.wgsl"
#include "partials.wgsl"
#include "block_sum.wgsl"
#include "draw.wgsl"
#include "drop.wgsl"

const MOST_WORDS = 32u;
const FEWEST = 8u;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, lid * OWN_ROWS * ROW_VEC8S);
  let block = wid.x + wid.y * nwg.x;
  let models = INPUTS - 1u;
  let sums = 2u * models;
  let words = sums + MASKS * ROWS * models;
  for (var i = 1u; i < INPUTS; i++) {
    let drop = drop_of(start, i);
    if (RANKED == 1u && GIVEN == 0u) { draw_by_rank(wid, nwg, lid, i); }
    var sum = vec2f(0.0);
    for (var row = 0u; row < rolled(OWN_ROWS); row++) {
      var all = vec4f(0.0);
      var rest = vec4f(0.0);
      var mask = 0u;
      var stays = 0u;
      if (GIVEN == 1u && start.live != 0u) { stays = given(start, i, lid * OWN_ROWS + row); }
      for (var k = 0u; k < rolled(ROW_VEC8S); k++) {
        let p = along(start, row * ROW_VEC8S + k);
        if (p.live == 0u) { break; }
        let base = load_live_from(p, drop.base);
        let x = load_live_from(p, drop.source);
        var bits = 0u;
        if (GIVEN == 1u) {
          bits = (stays >> (8u * k)) & 255u;
        } else if (RANKED == 1u) {
          bits = (atomicLoad(&drawn[LINES * (i - 1u) + lid * OWN_ROWS + row]) >> (8u * k)) & 255u;
        } else {
          bits = kept(p, drop);
        }
        mask |= bits << (8u * k);
        let d = Vec8(abs(delta(x.a, base.a)), abs(delta(x.b, base.b)));
        let rests = left(d, bits);
        all += d.a;
        all += d.b;
        rest += rests.a;
        rest += rests.b;
      }
      sum += vec2f(sum4(all), sum4(rest));
      if (MASKS == 1u && start.live != 0u) {
        output[block * words + sums + (lid * OWN_ROWS + row) * models + i - 1u] = mask;
      }
    }
    gathered[2u * (i - 1u) * WORKGROUP + lid] = bitcast<u32>(sum.x);
    gathered[(2u * i - 1u) * WORKGROUP + lid] = bitcast<u32>(sum.y);
  }
  workgroupBarrier();
  for (var w = lid; w < sums && block < table[TABLE_BLOCKS]; w += WORKGROUP) {
    output[block * words + w] = bitcast<u32>(block_sum(w));
  }
}
