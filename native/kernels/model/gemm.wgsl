// y[t, first + n] = scale * sum over k of x[start + t, k] * W[n, k] (+ y where `add` is not 0): a matrix, or a block of
// its rows, applied to rows of x.
// For devices without subgroups, for SwiftShader and for widths that are no multiple of 4; the others run gemm_1,
// gemm_8, gemm_16 and gemm_32.
// An invocation makes 8 rows of one vec8 of columns. What it reads of x is the same for its whole workgroup, what it
// reads of W (packed, see include/weights.wgsl) lies beside what its neighbours read. The rows have names of their own:
// SwiftShader keeps arrays in memory, which takes five times as long.
// stride: of y
struct Parameters {
  rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32, add: u32, scale: f32,
}
#include "weights.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

// Rows past the end read the last one, and store nothing.
fn begin(row: u32) -> u32 { return (p.start + min(row, p.rows - 1u)) * p.inner; }

fn put(row: u32, column: u32, a: vec4f, b: vec4f) {
  if (row >= p.rows) { return; }
  let out = row * p.stride + p.first + column * 8u;
  for (var i = 0u; i < 8u && column * 8u + i < p.columns; i++) {
    let value = p.scale * select(a[i % 4u], b[i % 4u], i >= 4u);
    y[out + i] = select(value, y[out + i] + value, p.add != 0u);
  }
}

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let column = wid.x * 16u + lane;
  let row = wid.y * 8u;
  if (column >= (p.columns + 7u) / 8u) { return; }
  let x0 = begin(row + 0u);
  let x1 = begin(row + 1u);
  let x2 = begin(row + 2u);
  let x3 = begin(row + 3u);
  let x4 = begin(row + 4u);
  let x5 = begin(row + 5u);
  let x6 = begin(row + 6u);
  let x7 = begin(row + 7u);
  var a0 = vec4f();
  var b0 = vec4f();
  var a1 = vec4f();
  var b1 = vec4f();
  var a2 = vec4f();
  var b2 = vec4f();
  var a3 = vec4f();
  var b3 = vec4f();
  var a4 = vec4f();
  var b4 = vec4f();
  var a5 = vec4f();
  var b5 = vec4f();
  var a6 = vec4f();
  var b6 = vec4f();
  var a7 = vec4f();
  var b7 = vec4f();
  for (var k = 0u; k + 1u < p.inner; k += 2u) {
    let v = vec8(vec8_at(column, k, p.inner));
    let w = vec8(vec8_at(column, k + 1u, p.inner));
    a0 += x[x0 + k] * v.a + x[x0 + k + 1u] * w.a;
    b0 += x[x0 + k] * v.b + x[x0 + k + 1u] * w.b;
    a1 += x[x1 + k] * v.a + x[x1 + k + 1u] * w.a;
    b1 += x[x1 + k] * v.b + x[x1 + k + 1u] * w.b;
    a2 += x[x2 + k] * v.a + x[x2 + k + 1u] * w.a;
    b2 += x[x2 + k] * v.b + x[x2 + k + 1u] * w.b;
    a3 += x[x3 + k] * v.a + x[x3 + k + 1u] * w.a;
    b3 += x[x3 + k] * v.b + x[x3 + k + 1u] * w.b;
    a4 += x[x4 + k] * v.a + x[x4 + k + 1u] * w.a;
    b4 += x[x4 + k] * v.b + x[x4 + k + 1u] * w.b;
    a5 += x[x5 + k] * v.a + x[x5 + k + 1u] * w.a;
    b5 += x[x5 + k] * v.b + x[x5 + k + 1u] * w.b;
    a6 += x[x6 + k] * v.a + x[x6 + k + 1u] * w.a;
    b6 += x[x6 + k] * v.b + x[x6 + k + 1u] * w.b;
    a7 += x[x7 + k] * v.a + x[x7 + k + 1u] * w.a;
    b7 += x[x7 + k] * v.b + x[x7 + k + 1u] * w.b;
  }
  if (p.inner % 2u == 1u) {
    let k = p.inner - 1u;
    let v = vec8(vec8_at(column, k, p.inner));
    a0 += x[x0 + k] * v.a;
    b0 += x[x0 + k] * v.b;
    a1 += x[x1 + k] * v.a;
    b1 += x[x1 + k] * v.b;
    a2 += x[x2 + k] * v.a;
    b2 += x[x2 + k] * v.b;
    a3 += x[x3 + k] * v.a;
    b3 += x[x3 + k] * v.b;
    a4 += x[x4 + k] * v.a;
    b4 += x[x4 + k] * v.b;
    a5 += x[x5 + k] * v.a;
    b5 += x[x5 + k] * v.b;
    a6 += x[x6 + k] * v.a;
    b6 += x[x6 + k] * v.b;
    a7 += x[x7 + k] * v.a;
    b7 += x[x7 + k] * v.b;
  }
  put(row + 0u, column, a0, b0);
  put(row + 1u, column, a1, b1);
  put(row + 2u, column, a2, b2);
  put(row + 3u, column, a3, b3);
  put(row + 4u, column, a4, b4);
  put(row + 5u, column, a5, b5);
  put(row + 6u, column, a6, b6);
  put(row + 7u, column, a7, b7);
}
