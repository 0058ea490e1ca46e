// exp and log of f32 from additions and products alone: those of WGSL differ between devices. A few units of the last
// place at most.
#include "reciprocal.wgsl"

// e^v and e^v - 1, which keeps its digits where v is small.
struct Exponential { value: vec4f, minus_one: vec4f }

// Beyond +-80 as at +-80.
fn exponential(v: vec4f) -> Exponential {
  let w = clamp(v, vec4f(-80.0), vec4f(80.0));
  let n = floor(prod4(w, 1.44269504) + vec4f(0.5));
  // ln 2 in two parts, of which the first has so few bits that n times it is exact.
  let r = (w - prod4(n, 0.693359375)) + prod4(n, 2.12194440e-4);
  var tail = vec4f(1.0 / 720.0) + prod4(r, 1.0 / 5040.0);
  tail = vec4f(1.0 / 120.0) + mul4(r, tail);
  tail = vec4f(1.0 / 24.0) + mul4(r, tail);
  tail = vec4f(1.0 / 6.0) + mul4(r, tail);
  tail = vec4f(0.5) + mul4(r, tail);
  let less = r + mul4(mul4(r, r), tail); // e^r - 1
  // n is in the low bits of n + 1.5 * 2^23. Software drivers make an integer of a float lane by lane.
  let power = bitcast<vec4f>((bitcast<vec4u>(n + vec4f(0x1.8p23)) + vec4u(127u)) << vec4u(23u));
  return Exponential(mul4(power, vec4f(1.0) + less), mul4(power, less) + (power - vec4f(1.0)));
}

// z - log(1 + z) for z > -1, without the cancellation; `whole` is 1 + z, which z may be too near to -1 to tell.
fn log_excess(z: vec4f, whole: vec4f) -> vec4f {
  // whole = m 2^k with m around 1
  let k = (bitcast<vec4i>(whole) - vec4i(0x3f3504f3)) >> vec4u(23u);
  let m = bitcast<vec4f>(bitcast<vec4i>(whole) - (k << vec4u(23u)));
  let x = select(m - vec4f(1.0), z, k == vec4i(0));
  // log(1 + x) = 2 artanh y
  let y = mul4(x, inverse(vec4f(2.0) + x));
  let square = mul4(y, y);
  var tail = vec4f(1.0 / 9.0) + prod4(square, 1.0 / 11.0);
  tail = vec4f(1.0 / 7.0) + mul4(square, tail);
  tail = vec4f(1.0 / 5.0) + mul4(square, tail);
  tail = vec4f(1.0 / 3.0) + mul4(square, tail);
  let excess = mul4(x, y) - mul4(mul4(y, square), prod4(tail, 2.0));
  return (z - x) + (excess - prod4(vec4f(k), 0.693147181));
}
