// DARE (arXiv 2311.03099) and with RANKED 1 DELLA (arXiv 2406.11617): drop elements of each delta at random, rescale the
// rest, then add up (CONSENSUS 0) or elect a sign as TIES does (CONSENSUS 1). Input 0 is the base, inputs 1..n the models
// (n <= 8 with CONSENSUS 1).
// Coefficients: the words of drop.wgsl with factor weight * rescale, then one f32 (lambda, over the sum of the weights where
// normalised), or for CONSENSUS 1 2^n f32: lambda / sum of the agreeing weights.
#include "tile.wgsl"
#include "store.wgsl"
#include "delta.wgsl"
#include "philox.wgsl"
#include "drop.wgsl"
#include "consensus.wgsl"

override CONSENSUS: u32 = 0u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.live == 0u) { return; }
  let base = load(p, 0u);
  var a = Votes();
  var b = Votes();
  for (var i = 0u; i + 1u < INPUTS; i++) {
    let x = load(p, i + 1u);
    let left = kept(p, drop_of(p, i + 1u));
    let weight = factor(p, i + 1u);
    vote(&a, select(vec4f(0.0), delta(x.a, base.a), left.a), weight, 1u << i);
    vote(&b, select(vec4f(0.0), delta(x.b, base.b), left.b), weight, 1u << i);
  }
  let scale_at = drop_end();
  store(p, Octet(base.a + elect(p, a, scale_at), base.b + elect(p, b, scale_at)));
}
