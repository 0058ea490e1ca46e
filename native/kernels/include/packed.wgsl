// A tensor of a model as forward kernels read it: binding 1, packed as in the checkpoint, but transposed to [in, out]
// (kernel pack_weights), in panels of PANEL_COLUMNS columns that lie one after another, the last one padded.
// Neighbouring invocations read neighbouring words, and what they read for the next row of the panel follows.
// What includes it has `halves`, the f16 numbers of a word.
#include "layout.wgsl"
override DTYPE: u32; // F32, F16 or BF16

@group(0) @binding(1) var<storage, read> weights: array<vec4u>;

struct Vec8 { a: vec4f, b: vec4f }

// Where columns 8 n to 8 n + 7 of row k are, in vec8s.
const PANEL_VEC8S = PANEL_COLUMNS / 8u;
fn vec8_at(n: u32, k: u32, inner: u32) -> u32 {
  return (n / PANEL_VEC8S * inner + k) * PANEL_VEC8S + n % PANEL_VEC8S;
}

fn vec8(o: u32) -> Vec8 {
  if (DTYPE == DTYPE_F32) { return Vec8(bitcast<vec4f>(weights[2u * o]), bitcast<vec4f>(weights[2u * o + 1u])); }
  let w = weights[o];
  if (DTYPE == DTYPE_F16) {
    return Vec8(vec4f(halves(w.x), halves(w.y)), vec4f(halves(w.z), halves(w.w)));
  }
  let low = bitcast<vec4f>(w << vec4u(16u));
  let high = bitcast<vec4f>(w & vec4u(0xffff0000u));
  return Vec8(vec4f(low.x, high.x, low.y, high.y), vec4f(low.z, high.z, low.w, high.w));
}

fn element(i: u32) -> f32 {
  if (DTYPE == DTYPE_F32) { return bitcast<f32>(weights[i / 4u][i % 4u]); }
  let pair = weights[i / 8u][i % 8u / 2u];
  if (DTYPE == DTYPE_F16) { return halves(pair)[i % 2u]; }
  return bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, i % 2u == 1u));
}

// Column n of row k.
fn element_at(n: u32, k: u32, inner: u32) -> f32 { return element(8u * vec8_at(n / 8u, k, inner) + n % 8u); }
