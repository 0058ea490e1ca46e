// y[n, k] = sum over t of g[t, first + n] * x[start + t, k] (+ y where `add` is not 0): the gradient of a matrix that
// gemm applied to x, from the gradient g of what it made; y is f32 and lies as gemm reads matrices. For devices without
// subgroups and for widths that are no multiple of 4; the others run gemm_outer_16. An invocation makes one column of y
// for one n. Sums are taken over runs of 64 rows, and those added in order.
#include "layout.wgsl"
// stride: of g
struct Parameters { rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32, add: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const RUN = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let n = wid.x * 64u + lane;
  let k = wid.y;
  if (n >= p.columns) { return; }
  var total = 0.0;
  for (var begin = 0u; begin < p.rows; begin += RUN) {
    var sum = 0.0;
    let end = min(p.rows, begin + RUN);
    for (var t = begin; t < end; t++) { sum += g[t * p.stride + p.first + n] * x[(p.start + t) * p.inner + k]; }
    total += sum;
  }
  let out = (n / PANEL_COLUMNS * p.inner + k) * PANEL_COLUMNS + n % PANEL_COLUMNS;
  y[out] = select(total, y[out] + total, p.add != 0u);
}
