// TIES merging (arXiv 2306.01708) and breadcrumbs (arXiv 2312.06795): trim each delta by magnitude, then elect a sign and
// combine what agrees, or add up (see consensus.wgsl). Input 0 is the base, inputs 1..n the models (n <= 8 in elections).
// Coefficients: (threshold key, cut lo, cut hi; the same of the outliers with OUTLIERS 1; weight) a model, then lambda
// (CONSENSUS 0) or 2^n f32: lambda / what the agreeing models count; for CONSENSUS 4 one more word.
#include "tile.wgsl"
#include "store.wgsl"
#include "delta.wgsl"
#include "trim.wgsl"
#include "consensus.wgsl"

override CONSENSUS: u32 = 1u;

struct Sums { a: Votes, b: Votes }

fn take(sums: ptr<function, Sums>, p: Place, base: Octet, source: u32, i: u32, weight: f32) {
  let x = load_from(source, p.octet);
  let kept = band(p, (band_words() + 1u) * i);
  vote(&(*sums).a, trim(delta(x.a, base.a), kept, 0u), weight, 1u << i);
  vote(&(*sums).b, trim(delta(x.b, base.b), kept, 4u), weight, 1u << i);
}

fn weight_of(p: Place, i: u32) -> f32 { return coef(p, (band_words() + 1u) * i + band_words()); }

fn merge(p: Place, base_source: u32, first_source: u32, weight: f32) {
  if (p.live == 0u) { return; }
  let base = load_from(base_source, p.octet);
  var sums = Sums();
  take(&sums, p, base, first_source, 0u, weight);
  for (var i = 1u; i + 1u < INPUTS; i++) { take(&sums, p, base, source(p, i + 1u), i, weight_of(p, i)); }
  let scale_at = (band_words() + 1u) * (INPUTS - 1u);
  store(p, Octet(base.a + elect(p, sums.a, scale_at), base.b + elect(p, sums.b, scale_at)));
}

// An invocation takes four octets and looks up the first model once for all of them.
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.live == 0u) { return; }
  let base_source = source(p, 0u);
  let first_source = source(p, 1u);
  let weight = weight_of(p, 0u);
  for (var k = 0u; k < 4u; k++) { merge(along(p, 64u * k), base_source, first_source, weight); }
}
