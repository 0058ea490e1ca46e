// Reinforced agent merging (arXiv 2601.13572): an element that one model changed by more than epsilon gets that model's
// delta, one that several changed the mean of theirs, one that none changed stays the base's.
// Input 0 is the base, inputs 1..n the models. Coefficients: epsilon; a factor a model for elements that it alone
// changed; then 1 / k for k = 0 .. n (unused for 0 and 1).
#include "main_vec8.wgsl"
#include "delta.wgsl"

struct Sum { total: vec4f, count: vec4u, alone: vec4f }

fn add(sum: ptr<function, Sum>, d: vec4f, epsilon: u32, factor: f32) {
  let changed = magnitude(d) > vec4u(epsilon);
  (*sum).total += select(vec4f(0.0), d, changed);
  (*sum).count += select(vec4u(0u), vec4u(1u), changed);
  (*sum).alone = select((*sum).alone, vec4f(factor), changed);
}

fn share(p: Place, sum: Sum) -> vec4f {
  let first = INPUTS;
  let k = sum.count;
  let mean = vec4f(coef(p, first + k.x), coef(p, first + k.y), coef(p, first + k.z), coef(p, first + k.w));
  let factor = select(mean, sum.alone, k == vec4u(1u));
  return bitcast<vec4f>(bitcast<vec4u>(sum.total * factor) ^ vec4u(zero));
}

fn merge(p: Place) {
  let base = load(p, 0u);
  let epsilon = magnitude(vec4f(coef(p, 0u))).x;
  var a = Sum();
  var b = Sum();
  for (var i = 1u; i < INPUTS; i++) {
    let x = load(p, i);
    add(&a, delta(x.a, base.a), epsilon, coef(p, i));
    add(&b, delta(x.b, base.b), epsilon, coef(p, i));
  }
  store(p, Vec8(base.a + share(p, a), base.b + share(p, b)));
}
