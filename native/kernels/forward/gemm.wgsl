// y[t, first + n] = sum over k of x[start + t, k] * W[n, k]: a matrix, or a block of its rows, applied to rows of x. For
// adapters without subgroups and for widths that are no multiple of 4; the others run gemm_1, gemm_8 and gemm_16.
// An invocation makes 8 rows of one octet of columns in registers. What it reads of x is the same for its whole
// workgroup, what it reads of W (turned, see include/weights.wgsl) lies beside what its neighbours read.
struct Parameters { rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32 } // stride: of y
#include "weights.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const ROWS = 8u;

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let octets = (p.columns + 7u) / 8u;
  let column = wid.x * 16u + lane;
  let row = wid.y * ROWS;
  if (column >= octets) { return; }
  // Rows past the end read the last one, and store nothing.
  var at: array<u32, ROWS>;
  for (var r = 0u; r < ROWS; r++) { at[r] = (p.start + min(row + r, p.rows - 1u)) * p.inner; }
  var a: array<vec4f, ROWS>;
  var b: array<vec4f, ROWS>;
  for (var k = 0u; k < p.inner; k++) {
    let w = octet(octet_at(column, k, p.inner));
    for (var r = 0u; r < ROWS; r++) {
      let value = x[at[r] + k];
      a[r] += value * w.a;
      b[r] += value * w.b;
    }
  }
  for (var r = 0u; r < ROWS && row + r < p.rows; r++) {
    let out = (row + r) * p.stride + p.first + column * 8u;
    for (var i = 0u; i < 8u && column * 8u + i < p.columns; i++) {
      y[out + i] = select(a[r][i % 4u], b[r][i % 4u], i >= 4u);
    }
  }
}
