// TIES merging (arXiv 2306.01708) and breadcrumbs (arXiv 2312.06795): trim each delta by magnitude, then elect a sign
// and combine what agrees, or add up (see consensus.wgsl). Input 0 is the base, inputs 1..n the models (n <= 16 in
// elections). Coefficients: (threshold key, cut lo, cut hi; the same of the outliers with OUTLIERS 1; weight) a model,
// then lambda (CONSENSUS 0) or the words of consensus.wgsl: lambda / what the agreeing models count; for CONSENSUS 4
// one more word.
#include "main_vec8.wgsl"
#include "delta.wgsl"
#include "trim.wgsl"
#include "consensus.wgsl"

override CONSENSUS: u32 = 1u;

fn merge(p: Place) {
  let words = band_words() + 1u;
  let base = load(p, 0u);
  var a = Votes();
  var b = Votes();
  for (var i = 0u; i + 1u < INPUTS; i++) {
    let x = load(p, i + 1u);
    let kept = band(p, words * i);
    let weight = coef(p, words * i + words - 1u);
    vote(&a, trim(delta(x.a, base.a), kept, 0u), weight, 1u << i);
    vote(&b, trim(delta(x.b, base.b), kept, 4u), weight, 1u << i);
  }
  let scale_at = words * (INPUTS - 1u);
  store(p, Vec8(base.a + elect(p, a, scale_at), base.b + elect(p, b, scale_at)));
}
