// DARE (arXiv 2311.03099): drop elements of each delta at random, rescale the rest, then add up (CONSENSUS 0) or elect
// a sign as TIES does (CONSENSUS 1). Input 0 is the base, inputs 1..n the models (n <= 8 with CONSENSUS 1).
// Coefficients: (drop threshold u32, weight * rescale) a model, then one f32 (lambda, over the sum of the weights where
// normalised), or for CONSENSUS 1 2^n f32: lambda / sum of the agreeing weights.
#include "tile.wgsl"
#include "store.wgsl"
#include "delta.wgsl"
#include "philox.wgsl"
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
    let random = draw(p, i + 1u);
    let limit = vec4u(coef_bits(p, 2u * i));
    let weight = coef(p, 2u * i + 1u);
    vote(&a, select(vec4f(0.0), delta(x.a, base.a), random.a >= limit), weight, 1u << i);
    vote(&b, select(vec4f(0.0), delta(x.b, base.b), random.b >= limit), weight, 1u << i);
  }
  let scale_at = 2u * (INPUTS - 1u);
  store(p, Octet(base.a + elect(p, a, scale_at), base.b + elect(p, b, scale_at)));
}
