// 1 / v by Newton's iteration on the mantissa: a division is not the same on every GPU.

// Keeps a product of two vectors apart from an addition that follows it (see `prod`).
fn mul4(x: vec4f, y: vec4f) -> vec4f { return bitcast<vec4f>(bitcast<vec4u>(x * y) ^ vec4u(zero)); }

// 1 / m for m in [1, 2], to the last bit or two.
fn reciprocal(m: vec4f) -> vec4f {
  var y = vec4f(1.4571068) - prod4(m, 0.5); // within a tenth
  for (var k = 0u; k < 4u; k++) { y += mul4(y, vec4f(1.0) - mul4(m, y)); }
  return y;
}

// 2^-e for v = m 2^e with m in [1, 2); v is positive and normal.
fn inverse_power(v: vec4f) -> vec4f {
  let exponent = clamp(bitcast<vec4u>(v) >> vec4u(23u), vec4u(1u), vec4u(253u));
  return bitcast<vec4f>((vec4u(254u) - exponent) << vec4u(23u));
}

// 1 / v for such a v.
fn inverse(v: vec4f) -> vec4f {
  let power = inverse_power(v);
  return mul4(power, reciprocal(mul4(v, power)));
}
