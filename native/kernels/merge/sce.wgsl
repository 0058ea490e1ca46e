// SCE (arXiv 2408.07990), last step: of the selected elements, the deltas that agree in sign with the sum of all are
// averaged by the models' weights. Input 0 is the base, inputs 1..n the models (n <= 16).
// Coefficients: threshold key, cut lo, cut hi of the spread (see keys.wgsl); a weight a model; the words of
// consensus.wgsl: 1 / sum of the agreeing weights.
#include "main_vec8.wgsl"
#include "delta.wgsl"
#include "keys.wgsl"
#include "trim.wgsl"
#include "consensus.wgsl"

const CONSENSUS = 2u;

fn merge(p: Place) {
  let base = load(p, 0u);
  let selected = band(p, 0u);
  let key = spread(p);
  let keep_a = inside(key.a, selected, 0u);
  let keep_b = inside(key.b, selected, 4u);
  var a = Votes();
  var b = Votes();
  for (var i = 0u; i + 1u < INPUTS; i++) {
    let x = load(p, i + 1u);
    let weight = coef(p, 3u + i);
    vote(&a, select(vec4f(0.0), delta(x.a, base.a), keep_a), weight, 1u << i);
    vote(&b, select(vec4f(0.0), delta(x.b, base.b), keep_b), weight, 1u << i);
  }
  let scale_at = 2u + INPUTS;
  store(p, Vec8(base.a + elect(p, a, scale_at), base.b + elect(p, b, scale_at)));
}
