// NearSwap: the base moves towards the model by at most t an element: out = x where |x - b| <= t, else b + t sign(x -
// b). That is b + min(1, t / |x - b|) (x - b) without its division. Input 0 is the base b, input 1 the model x.
// Coefficients: t >= 0.
#include "main_vec8.wgsl"

fn move4(b: vec4f, x: vec4f, t: f32) -> vec4f {
  let d = x - b;
  let far = select(b - vec4f(t), b + vec4f(t), d > vec4f(0.0));
  return select(x, far, abs(d) > vec4f(t));
}

fn merge(p: Place) {
  let base = load(p, 0u);
  let x = load(p, 1u);
  let t = coef(p, 0u);
  store(p, Vec8(move4(base.a, x.a, t), move4(base.b, x.b, t)));
}
