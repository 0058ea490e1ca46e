// Weighted sum with weights of its own for every row or column: out = c_0 x_0 + c_1 x_1 + ..., or with BASE 1
// out = b + c_1 (x_1 - b) + ... where input 0 is b. f32, one rounding.
// Coefficients: see include/lines.wgsl; a weight an input (a model, with BASE 1) and line.
// COUNTED 1: the last input is no summand, but what the tensor was before; see include/against.wgsl.
#include "main_vec8.wgsl"
#include "against.wgsl"
#include "lines.wgsl"

override BASE: u32 = 0u;
override COUNTED: u32 = 0u;

fn exact4(v: vec4f) -> vec4f { return bitcast<vec4f>(bitcast<vec4u>(v) ^ vec4u(zero)); }

fn merge(p: Place) {
  let count = INPUTS - BASE - COUNTED;
  let lines = lines_of(p);
  var base = Vec8();
  if (BASE == 1u) { base = load_as(source(p, 0u), p.vec8, GIVEN); }
  var sum = base;
  for (var i = 0u; i < count; i++) {
    let x = load_as(source(p, i + BASE), p.vec8, GIVEN);
    let a = exact4((x.a - base.a) * line_coef4(p, lines.a, count, i));
    let b = exact4((x.b - base.b) * line_coef4(p, lines.b, count, i));
    // The first product is the sum, so that a zero keeps its sign.
    if (i == 0u && BASE == 0u) { sum = Vec8(a, b); } else { sum = Vec8(sum.a + a, sum.b + b); }
  }
  if (COUNTED == 1u) {
    store_against(p, sum, load_as(source(p, INPUTS - 1u), p.vec8, WEIGHT));
  } else {
    store(p, sum);
  }
}
