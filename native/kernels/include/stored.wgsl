// How stored bits become f32. What includes it has `inputs`, an array<vec4u>, and layout.wgsl.
//
// All conversions are integer operations, because WGSL has no bf16 or f8 and lets a device flush subnormals and
// assume that NaN and Inf do not occur. f32 subnormals become signed zero on load and on store, on every device.

fn flush(bits: vec4u) -> vec4u {
  return select(bits, bits & vec4u(0x80000000u), (bits & vec4u(0x7f800000u)) == vec4u(0u));
}

// Small floats (1 sign, E exponent, M mantissa bits) to f32 bits; `top` is the all-ones exponent that means Inf/NaN.
fn widen(h: vec4u, m: u32, bias: u32, sign: u32, top: u32) -> vec4u {
  let s = (h & vec4u(sign)) * (0x80000000u / sign);
  let body = h & vec4u(sign - 1u);
  let e = body >> vec4u(m);
  let f = body & vec4u((1u << m) - 1u);
  let normal = ((e + vec4u(127u - bias)) << vec4u(23u)) | (f << vec4u(23u - m));
  // A subnormal is f * 2^(1 - bias - m): normalise by its highest bit. All such values are normal in f32.
  let high = firstLeadingBit(f | vec4u(u32(0)));
  let shift = vec4u(23u) - min(high, vec4u(23u));
  let sub = ((high + vec4u(128u - bias - m)) << vec4u(23u)) | ((f << shift) & vec4u(0x007fffffu));
  let special = vec4u(0x7f800000u) | (f << vec4u(23u - m));
  var r = select(normal, sub, e == vec4u(0u));
  r = select(r, vec4u(0u), body == vec4u(0u));
  r = select(r, special, e == vec4u(top));
  return r | s;
}

// f64 as (low, high) words to f32 bits, round to nearest even.
fn narrow64(lo: u32, hi: u32) -> u32 {
  let s = hi & 0x80000000u;
  let e = (hi >> 20u) & 0x7ffu;
  let frac = ((hi & 0xfffffu) << 3u) | (lo >> 29u);
  let rest = lo & 0x1fffffffu;
  if (e == 0x7ffu) {
    let nan = (hi & 0xfffffu) != 0u || lo != 0u;
    return s | 0x7f800000u | select(0u, 0x400000u | frac, nan);
  }
  if (e < 896u) { return s; }
  if (e > 1150u) { return s | 0x7f800000u; }
  var r = ((e - 896u) << 23u) | frac;
  if (rest > 0x10000000u || (rest == 0x10000000u && (frac & 1u) == 1u)) { r += 1u; }
  return s | select(r, 0u, r < 0x00800000u);
}

struct Bits { a: vec4u, b: vec4u }

fn load_f32(off: u32, o: u32) -> Bits { return Bits(flush(inputs[off + 2u * o]), flush(inputs[off + 2u * o + 1u])); }

fn load_f16(off: u32, o: u32) -> Bits {
  let w = inputs[off + o];
  let lo = w & vec4u(0xffffu);
  let hi = w >> vec4u(16u);
  return Bits(widen(vec4u(lo.x, hi.x, lo.y, hi.y), 10u, 15u, 0x8000u, 31u),
              widen(vec4u(lo.z, hi.z, lo.w, hi.w), 10u, 15u, 0x8000u, 31u));
}

fn load_bf16(off: u32, o: u32) -> Bits {
  let w = inputs[off + o];
  let lo = w << vec4u(16u);
  let hi = w & vec4u(0xffff0000u);
  return Bits(flush(vec4u(lo.x, hi.x, lo.y, hi.y)), flush(vec4u(lo.z, hi.z, lo.w, hi.w)));
}

fn load_f64(off: u32, o: u32) -> Bits {
  let p = inputs[off + 4u * o];
  let q = inputs[off + 4u * o + 1u];
  let r = inputs[off + 4u * o + 2u];
  let t = inputs[off + 4u * o + 3u];
  return Bits(vec4u(narrow64(p.x, p.y), narrow64(p.z, p.w), narrow64(q.x, q.y), narrow64(q.z, q.w)),
              vec4u(narrow64(r.x, r.y), narrow64(r.z, r.w), narrow64(t.x, t.y), narrow64(t.z, t.w)));
}

fn load_f8(off: u32, o: u32, e5m2: bool) -> Bits {
  let w = inputs[off + u32(i32(o) >> 1u)]; // a vec8 before the tile counts below zero
  let half = select(w.xy, w.zw, (o & 1u) == 1u);
  let shifts = vec4u(0u, 8u, 16u, 24u);
  let lo = (vec4u(half.x) >> shifts) & vec4u(0xffu);
  let hi = (vec4u(half.y) >> shifts) & vec4u(0xffu);
  if (e5m2) { return Bits(widen(lo, 2u, 15u, 0x80u, 31u), widen(hi, 2u, 15u, 0x80u, 31u)); }
  // E4M3 has no Inf; its one NaN has all bits set.
  let nan = vec4u(0x7fc00000u);
  return Bits(select(widen(lo, 3u, 7u, 0x80u, 99u), nan, (lo & vec4u(0x7fu)) == vec4u(0x7fu)),
              select(widen(hi, 3u, 7u, 0x80u, 99u), nan, (hi & vec4u(0x7fu)) == vec4u(0x7fu)));
}

fn load_bits(off: u32, dtype: u32, o: u32) -> Bits {
  if (dtype == DTYPE_BF16) { return load_bf16(off, o); }
  if (dtype == DTYPE_F32) { return load_f32(off, o); }
  if (dtype == DTYPE_F16) { return load_f16(off, o); }
  if (dtype == DTYPE_F64) { return load_f64(off, o); }
  return load_f8(off, o, dtype == DTYPE_F8_E5M2);
}
