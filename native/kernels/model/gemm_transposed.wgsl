// y[start + t, k] = scale * sum over n of x[t, first + n] * W[n, k] (+ y where `add` is not 0): the gradient of what
// gemm multiplied, from the gradient x of what it made; W as gemm reads it. For devices without subgroups and for
// widths that are no multiple of 4; the others run gemm_transposed_16. An invocation makes one column of 8 rows.
// stride: of x
struct Parameters {
  rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32, add: u32, scale: f32,
}
#include "weights.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let k = wid.x * 16u + lane;
  let row = wid.y * 8u;
  if (k >= p.inner) { return; }
  var sums: array<f32, 8>;
  for (var n = 0u; n < p.columns; n++) {
    let w = element_at(n, k, p.inner);
    for (var r = 0u; r < 8u; r++) { sums[r] += x[min(row + r, p.rows - 1u) * p.stride + p.first + n] * w; }
  }
  for (var r = 0u; r < 8u && row + r < p.rows; r++) {
    let out = (p.start + row + r) * p.inner + k;
    let value = p.scale * sums[r];
    y[out] = select(value, y[out] + value, p.add != 0u);
  }
}
