// DARE (arXiv 2311.03099) and with RANKED 1 DELLA (arXiv 2406.11617): drop elements of each delta at random, rescale
// the rest, then add up (CONSENSUS 0) or elect a sign as TIES does (CONSENSUS 1). Input 0 is the base, inputs 1..n the
// models (n <= 16).
// Coefficients: the words of drop.wgsl with factor weight * rescale, then one f32 (lambda, over the sum of the weights
// where normalised), or for CONSENSUS 1 the words of consensus.wgsl: lambda / sum of the agreeing weights.
#include "tile.wgsl"
#include "store.wgsl"
#include "delta.wgsl"
#include "draw.wgsl"
#include "drop.wgsl"
#include "consensus.wgsl"

override CONSENSUS: u32 = 0u;
override RANKING: bool = RANKED == 1u && MASKS == 0u && GIVEN == 0u; // by the workgroup together (see ranks.wgsl)
override LANES: u32 = 64u;
override WORKGROUP: u32 = LANES;
const ROW_VEC8S = 4u;
const NEAR = 4u;

// Bits of row `row` of the block.
fn mask(p: Place, i: u32, row: u32) -> u32 {
  if (GIVEN == 1u) { return given(p, i, row); }
  return table[part(p) + 2u + p.vec8 / ROW_VEC8S * (INPUTS - 1u) + i - 1u];
}

// Bits of the elements of vec8 `k` of a row that stay of input `i`; `near` has the masks of the first ones.
fn stays(p: Place, i: u32, k: u32, near: vec4u, row: u32) -> u32 {
  if (RANKING) { return atomicLoad(&drawn[LINES * (i - 1u) + row]) >> (8u * k); }
  if (MASKS == 0u && GIVEN == 0u) { return kept(p, drop_of(p, i)); }
  if (INPUTS <= NEAR + 1u || i <= NEAR) { return near[i - 1u] >> (8u * k); }
  return mask(p, i, row) >> (8u * k);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  if (RANKING) {
    for (var i = 1u; i < INPUTS; i++) { draw_by_rank(wid, nwg, lid, i); }
  }
  let start = place(wid, nwg, ROW_VEC8S * OWN_LINES * lid);
  for (var r = 0u; r < rolled(OWN_LINES); r++) {
    let row = along(start, r * ROW_VEC8S);
    if (row.live == 0u) { return; }
    var near = vec4u(0u);
    if (MASKS == 1u || GIVEN == 1u) {
      for (var i = 1u; i < min(INPUTS, NEAR + 1u); i++) { near[i - 1u] = mask(row, i, lid * OWN_LINES + r); }
    }
    for (var k = 0u; k < rolled(ROW_VEC8S); k++) {
      let p = along(row, k);
      if (p.live == 0u) { return; }
      let base = load(p, 0u);
      var a = Votes();
      var b = Votes();
      for (var i = 1u; i < INPUTS; i++) {
        let x = load(p, i);
        let d = left(Vec8(delta(x.a, base.a), delta(x.b, base.b)), stays(p, i, k, near, lid * OWN_LINES + r));
        let weight = factor(p, i);
        vote(&a, d.a, weight, 1u << (i - 1u));
        vote(&b, d.b, weight, 1u << (i - 1u));
      }
      let scale_at = drop_end();
      store(p, Vec8(base.a + elect(p, a, scale_at), base.b + elect(p, b, scale_at)));
    }
  }
}
