// Task arithmetic (arXiv 2212.04089): out = b + (c_1 (x_1 - b) + c_2 (x_2 - b) + ...), f32, one rounding.
// The differences are added up first: they are small next to the base, and two of them may change places.
// Input 0 is the base b. Coefficients: c_1 .. c_n.
#include "main_vec8.wgsl"

fn weighted(x: Vec8, base: Vec8, c: f32) -> Vec8 { return Vec8(prod4(x.a - base.a, c), prod4(x.b - base.b, c)); }

fn merge(p: Place) {
  let base = load(p, 0u);
  var sum = weighted(load(p, 1u), base, coef(p, 0u));
  for (var i = 2u; i < INPUTS; i++) {
    let more = weighted(load(p, i), base, coef(p, i - 1u));
    sum = Vec8(sum.a + more.a, sum.b + more.b);
  }
  store(p, Vec8(base.a + sum.a, base.b + sum.b));
}
