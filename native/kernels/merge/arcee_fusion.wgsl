// The model where it differs by enough from the base, and the base elsewhere. Input 0 is the base, input 1 the model.
// Coefficients: the smallest key (see include/keys.wgsl) of the elements that are the model's.
#include "main_vec8.wgsl"
#include "delta.wgsl"
#include "keys.wgsl"

fn merge(p: Place) {
  let threshold = vec4u(coef_bits(p, WEIGHTED));
  let key = keys(p, 0u);
  let base = load(p, 0u);
  let x = load(p, 1u);
  store(p, Vec8(select(base.a, x.a, key.a >= threshold), select(base.b, x.b, key.b >= threshold)));
}
