// TIES merging (arXiv 2306.01708): trim each delta to its largest magnitudes, elect a sign, average what agrees.
// Input 0 is the base, inputs 1..n the models (n <= 8).
// Coefficients: (threshold key, cut lo, cut hi, weight) a model, then 2^n f32: lambda / sum of the agreeing weights.
// An element stays if its key is above the threshold, or equal to it with a flat index below the cut.
#include "tile.wgsl"
#include "store.wgsl"
#include "delta.wgsl"
#include "consensus.wgsl"

// How many elements of the octet lie before the cut, 0..8.
fn before_cut(p: Place, lo: u32, hi: u32) -> u32 {
  let start = table[p.rec + 2u];
  let first = start + p.octet * 8u;
  let first_hi = table[p.rec + 3u] + select(0u, 1u, first < start);
  if (hi < first_hi || (hi == first_hi && lo <= first)) { return 0u; }
  let far = hi - first_hi - select(0u, 1u, lo < first);
  return select(8u, min(8u, lo - first), far == 0u);
}

fn trim(d: vec4f, threshold: u32, cut: u32, first: u32) -> vec4f {
  let key = magnitude(d);
  let keep = (key > vec4u(threshold)) | ((key == vec4u(threshold)) & live4(cut, first));
  return select(vec4f(0.0), d, keep);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.live == 0u) { return; }
  let base = load(p, 0u);
  var a = Votes();
  var b = Votes();
  for (var i = 0u; i + 1u < INPUTS; i++) {
    let x = load(p, i + 1u);
    let threshold = coef_bits(p, 4u * i);
    let cut = before_cut(p, coef_bits(p, 4u * i + 1u), coef_bits(p, 4u * i + 2u));
    let weight = coef(p, 4u * i + 3u);
    vote(&a, prod4(trim(delta(x.a, base.a), threshold, cut, 0u), weight), 1u << i);
    vote(&b, prod4(trim(delta(x.b, base.b), threshold, cut, 4u), weight), 1u << i);
  }
  let table_at = 4u * (INPUTS - 1u);
  store(p, Octet(base.a + elect(p, a, table_at), base.b + elect(p, b, table_at)));
}
