// The output side of kernels that store elements: one rounding to nearest even, and the NaN/Inf count, which is
// taken on the stored bits so that an overflow of the rounding is counted too.

@group(0) @binding(1) var<storage, read_write> output: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> counts: array<atomic<u32>>;

#include "rounding.wgsl"

fn count4(mask: vec4<bool>, first: u32, live: u32) -> u32 {
  let in_range = (vec4u(first) + vec4u(0u, 1u, 2u, 3u)) < vec4u(live);
  let one = select(vec4u(0u), vec4u(1u), mask & in_range);
  return one.x + one.y + one.z + one.w;
}

fn pack(x: vec4u, y: vec4u) -> vec4u {
  return vec4u(x.x | (x.y << 16u), x.z | (x.w << 16u), y.x | (y.y << 16u), y.z | (y.w << 16u));
}

fn count_index(p: Place, what: u32) -> u32 { return COUNT_WORDS * table[p.rec + RECORD_SEGMENT] + what; }

// Whether any of the eight values has all bits of `exponent` set: NaN or Inf.
fn note(p: Place, a: vec4u, b: vec4u, exponent: u32) {
  let bad_a = (a & vec4u(exponent)) == vec4u(exponent);
  let bad_b = (b & vec4u(exponent)) == vec4u(exponent);
  if (any(bad_a | bad_b)) {
    atomicAdd(&counts[count_index(p, COUNT_NON_FINITE)], count4(bad_a, 0u, p.live) + count4(bad_b, 4u, p.live));
  }
}

// The bits of values as they are stored.
fn rounded(v: vec4f) -> vec4u {
  let bits = flush(bitcast<vec4u>(v));
  if (OUT_DTYPE == DTYPE_BF16) { return to_bf16(bits); }
  if (OUT_DTYPE == DTYPE_F16) { return to_f16(bits); }
  return bits;
}

// Rounds the vec8 to OUT_DTYPE and writes it; elements past the segment's end are written but never leave the slot.
fn store(p: Place, v: Vec8) {
  let off = output_at;
  let a = flush(bitcast<vec4u>(v.a));
  let b = flush(bitcast<vec4u>(v.b));
  if (OUT_DTYPE == DTYPE_BF16) {
    let x = to_bf16(a);
    let y = to_bf16(b);
    output[off + p.vec8] = pack(x, y);
    note(p, x, y, 0x7f80u);
  } else if (OUT_DTYPE == DTYPE_F16) {
    let x = to_f16(a);
    let y = to_f16(b);
    output[off + p.vec8] = pack(x, y);
    note(p, x, y, 0x7c00u);
  } else {
    output[off + 2u * p.vec8] = a;
    output[off + 2u * p.vec8 + 1u] = b;
    note(p, a, b, 0x7f800000u);
  }
}
