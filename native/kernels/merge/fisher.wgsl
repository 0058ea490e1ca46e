// Mean with a weight of its own for every element: out = sum s_i x_i / sum s_i with s_i = w_i (F_i + eps), where F_i is
// the diagonal Fisher information of x_i; the plain weighted mean where all s_i are zero.
// Inputs: x_1 .. x_n, F_1 .. F_n, F_i >= 0. Coefficients: eps, w_1 .. w_n.
#include "main_vec8.wgsl"
#include "reciprocal.wgsl"

fn mean(sum: vec4f, total: vec4f, first: vec4f) -> vec4f {
  return first + mul4(sum, reciprocal(total));
}

fn merge(p: Place) {
  let models = INPUTS / 2u;
  let eps = vec4f(coef(p, 0u));
  var total = Vec8();
  var plain = 0.0;
  for (var i = 0u; i < models; i++) {
    let f = load(p, models + i);
    let w = coef(p, 1u + i);
    total.a += prod4(f.a + eps, w);
    total.b += prod4(f.b + eps, w);
    plain += w;
  }
  let none_a = total.a < vec4f(1.1754944e-38);
  let none_b = total.b < vec4f(1.1754944e-38);
  let scale_a = inverse_power(select(total.a, vec4f(plain), none_a));
  let scale_b = inverse_power(select(total.b, vec4f(plain), none_b));
  // Around the first model, so that what is equal in all of them stays as it is.
  let first = load(p, 0u);
  var sum = Vec8();
  var shares = Vec8();
  for (var i = 0u; i < models; i++) {
    let x = load(p, i);
    let f = load(p, models + i);
    let w = coef(p, 1u + i);
    let a = mul4(select(prod4(f.a + eps, w), vec4f(w), none_a), scale_a);
    let b = mul4(select(prod4(f.b + eps, w), vec4f(w), none_b), scale_b);
    shares.a += a;
    shares.b += b;
    sum.a += mul4(a, x.a - first.a);
    sum.b += mul4(b, x.b - first.b);
  }
  store(p, Vec8(mean(sum.a, shares.a, first.a), mean(sum.b, shares.b, first.b)));
}
