// A tensor as forward kernels read it (see packed.wgsl), by neighbouring columns of one row of the panel: binding 1.
#include "layout.wgsl"
override DTYPE: u32; // F32, F16 or BF16
@group(0) @binding(1) var<storage, read> weights: array<vec2u>;

// W[n, k] of n from 4 i to 4 i + 3, of a matrix with `inner` columns k.
fn across(i: u32, k: u32, inner: u32) -> vec4f {
  let o = (i / (PANEL_COLUMNS / 4u) * inner + k) * (PANEL_COLUMNS / 4u) + i % (PANEL_COLUMNS / 4u);
  if (DTYPE == DTYPE_F32) { return bitcast<vec4f>(vec4u(weights[2u * o], weights[2u * o + 1u])); }
  let w = weights[o];
  if (DTYPE == DTYPE_F16) { return vec4f(unpack2x16float(w.x), unpack2x16float(w.y)); }
  let low = bitcast<vec2f>(w << vec2u(16u));
  let high = bitcast<vec2f>(w & vec2u(0xffff0000u));
  return vec4f(low.x, high.x, low.y, high.y);
}
