// Weighted sum of the inputs: out = c_0 x_0 + c_1 x_1 + ... in the order of the inputs, f32, one rounding.
// Linear merge / model soup (arXiv 2203.05482); with coefficients from a CPU step also SLERP.
#include "main_vec8.wgsl"

fn times(x: Vec8, c: f32) -> Vec8 { return Vec8(prod4(x.a, c), prod4(x.b, c)); }

fn merge(p: Place) {
  var sum = times(load(p, 0u), coef(p, 0u));
  for (var i = 1u; i < INPUTS; i++) {
    let more = times(load(p, i), coef(p, i));
    sum = Vec8(sum.a + more.a, sum.b + more.b);
  }
  store(p, sum);
}
