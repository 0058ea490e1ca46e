// One rounding of f32 bits to 16 bits, to nearest even.

fn is_nan(u: vec4u) -> vec4<bool> { return (u & vec4u(0x7fffffffu)) > vec4u(0x7f800000u); }

fn to_bf16(u: vec4u) -> vec4u {
  let r = (u + vec4u(0x7fffu) + ((u >> vec4u(16u)) & vec4u(1u))) >> vec4u(16u);
  return select(r, (u >> vec4u(16u)) | vec4u(0x40u), is_nan(u));
}

fn to_f16(u: vec4u) -> vec4u {
  let s = (u >> vec4u(16u)) & vec4u(0x8000u);
  let v = u & vec4u(0x7fffffffu);
  let normal = (v - vec4u(0x38000000u) + vec4u(0xfffu) + ((v >> vec4u(13u)) & vec4u(1u))) >> vec4u(13u);
  // Below 2^-14 the result is subnormal: shift the mantissa with its hidden bit, round on what falls off.
  let e = v >> vec4u(23u);
  let shift = min(vec4u(126u) - min(e, vec4u(126u)), vec4u(31u));
  let m = (v & vec4u(0x7fffffu)) | vec4u(0x800000u);
  let kept = select(m >> shift, vec4u(0u), shift > vec4u(24u));
  let rest = m & ((vec4u(1u) << shift) - vec4u(1u));
  let half = vec4u(1u) << (max(shift, vec4u(1u)) - vec4u(1u));
  let up = (rest > half) | ((rest == half) & ((kept & vec4u(1u)) == vec4u(1u)));
  let sub = kept + select(vec4u(0u), vec4u(1u), up & (shift <= vec4u(24u)));
  var r = select(normal, sub, v < vec4u(0x38800000u));
  r = select(r, vec4u(0x7c00u), v >= vec4u(0x477ff000u));
  r = select(r, vec4u(0x7e00u), v > vec4u(0x7f800000u));
  return r | s;
}
