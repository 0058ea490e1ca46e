// DARE (arXiv 2311.03099) and with RANKED 1 DELLA (arXiv 2406.11617): drop elements of each delta at random, rescale the
// rest, then add up (CONSENSUS 0) or elect a sign as TIES does (CONSENSUS 1). Input 0 is the base, inputs 1..n the models
// (n <= 8 with CONSENSUS 1).
// Coefficients: the words of drop.wgsl with factor weight * rescale, then one f32 (lambda, over the sum of the weights where
// normalised), or for CONSENSUS 1 2^n f32: lambda / sum of the agreeing weights.
#include "tile.wgsl"
#include "store.wgsl"
#include "delta.wgsl"
#include "draw.wgsl"
#include "drop.wgsl"
#include "consensus.wgsl"

override CONSENSUS: u32 = 0u;
const MODELS = 16u;

struct Sums { a: Votes, b: Votes }

fn take(sums: ptr<function, Sums>, p: Place, base: Octet, drop: Drop, left: Kept, weight: f32, bit: u32) {
  let x = load_from(drop.source, p.octet);
  vote(&(*sums).a, select(vec4f(0.0), delta(x.a, base.a), left.a), weight, bit);
  vote(&(*sums).b, select(vec4f(0.0), delta(x.b, base.b), left.b), weight, bit);
}

// An invocation takes four octets and looks up the first model once for all of them.
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  var ranked = array<u32, MODELS>();
  for (var i = 0u; i + 1u < INPUTS; i++) { ranked[i] = ranked_drop(wid, nwg, lid, i + 1u); }
  let start = place(wid, nwg, 4u * lid);
  if (start.live == 0u) { return; }
  let first = drop_of(start, 1u);
  let weight = factor(start, 1u);
  for (var k = 0u; k < rolled(4u); k++) {
    let p = along(start, k);
    if (p.live == 0u) { return; }
    let base = load_from(first.base, p.octet);
    var sums = Sums();
    take(&sums, p, base, first, kept(p, first, ranked[0], k), weight, 1u);
    for (var i = 1u; i + 1u < INPUTS; i++) {
      let drop = drop_of(p, i + 1u);
      take(&sums, p, base, drop, kept(p, drop, ranked[i], k), factor(p, i + 1u), 1u << i);
    }
    let scale_at = drop_end();
    store(p, Octet(base.a + elect(p, sums.a, scale_at), base.b + elect(p, sums.b, scale_at)));
  }
}
