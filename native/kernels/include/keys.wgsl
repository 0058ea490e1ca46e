// What the exact selection ranks elements by, as integer keys (see delta.wgsl): the magnitude of a model's delta, or
// with SPREAD 1 how far the models lie apart: n^3 times the variance of their deltas, so that nothing is divided. With
// WEIGHTED 1 a magnitude counts by the coefficient of its row, and the words of lines.wgsl come before all others.
#include "lines.wgsl"

override CUTS: u32 = 1u; // brackets a model
override SPREAD: u32 = 0u;
override WEIGHTED: u32 = 0u;

struct Keys { a: vec4u, b: vec4u }

fn selections() -> u32 { return select(CUTS * (INPUTS - 1u), 1u, SPREAD == 1u); }

fn square(v: vec4f) -> vec4f { return bitcast<vec4f>(bitcast<vec4u>(v * v) ^ vec4u(zero)); }

// Differences from the first model have the same variance as those from the base, and where all models agree it is
// exactly zero.
fn spread(p: Place) -> Keys {
  let first = load(p, 1u);
  var sum = Vec8();
  for (var i = 2u; i < INPUTS; i++) {
    let x = load(p, i);
    sum.a += delta(x.a, first.a);
    sum.b += delta(x.b, first.b);
  }
  let models = f32(INPUTS - 1u);
  var total = Vec8();
  for (var i = 1u; i < INPUTS; i++) {
    let x = load(p, i);
    total.a += square(prod4(delta(x.a, first.a), models) - sum.a);
    total.b += square(prod4(delta(x.b, first.b), models) - sum.b);
  }
  return Keys(magnitude(bitcast<vec4f>(flush(bitcast<vec4u>(total.a)))),
              magnitude(bitcast<vec4f>(flush(bitcast<vec4u>(total.b)))));
}

fn keys(p: Place, model: u32) -> Keys {
  if (SPREAD == 1u) { return spread(p); }
  let base = load(p, 0u);
  let x = load(p, model + 1u);
  var a = delta(x.a, base.a);
  var b = delta(x.b, base.b);
  if (WEIGHTED == 1u) {
    let weights = line_coefs(p, 1u, 0u);
    a = bitcast<vec4f>(flush(bitcast<vec4u>(a * weights.a)));
    b = bitcast<vec4f>(flush(bitcast<vec4u>(b * weights.b)));
  }
  return Keys(magnitude(a), magnitude(b));
}
