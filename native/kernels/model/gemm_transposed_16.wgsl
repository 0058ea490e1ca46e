// y[start + t, k] = scale * sum over n of x[t, first + n] * W[n, k] (+ y), as gemm_transposed, for devices with
// subgroups of at least 4: an invocation makes 16 rows of 8 columns, SUBGROUP apart, in registers. Panels have neighbouring n beside
// each other, so that one read of W is 8 terms of a column. Each of up to 8 neighbours reads other elements of x and
// gets the others' from them, as in include/main_gemm_rows.wgsl. `stride`, `first` and `columns` are multiples of 4.
enable subgroups;
diagnostic(off, subgroup_uniformity);
// stride: of x
struct Parameters {
  rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32, add: u32, scale: f32,
}
#include "weights.wgsl"
override SUBGROUP: u32; // invocations of a workgroup
override SHARE: u32 = min(8u, SUBGROUP); // neighbours that share what they read of x
override READS: u32 = ROWS / SHARE;
const ROWS = 16u;
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_invocation_id) neighbour: u32) {
  let column = wid.x * SUBGROUP * 8u + lane;
  let row = wid.y * ROWS;
  let vec4s = p.columns / 4u;
  // Columns and rows past the end read the last ones, and store nothing.
  var column_of: array<u32, 8>;
  for (var j = 0u; j < 8u; j++) { column_of[j] = min(column + j * SUBGROUP, p.inner - 1u); }
  var at: array<u32, 4>;
  for (var e = 0u; e < READS; e++) {
    at[e] = (min(row + SHARE * e + neighbour % SHARE, p.rows - 1u) * p.stride + p.first) / 4u;
  }
  var low: array<vec4f, 4>;
  var high: array<vec4f, 4>;
  var a: array<vec4f, ROWS>;
  var b: array<vec4f, ROWS>;
  for (var n = 0u; n < vec4s; n += 2u) {
    let w0 = vec8(vec8_at(n / 2u, column_of[0], p.inner));
    let w1 = vec8(vec8_at(n / 2u, column_of[1], p.inner));
    let w2 = vec8(vec8_at(n / 2u, column_of[2], p.inner));
    let w3 = vec8(vec8_at(n / 2u, column_of[3], p.inner));
    let w4 = vec8(vec8_at(n / 2u, column_of[4], p.inner));
    let w5 = vec8(vec8_at(n / 2u, column_of[5], p.inner));
    let w6 = vec8(vec8_at(n / 2u, column_of[6], p.inner));
    let w7 = vec8(vec8_at(n / 2u, column_of[7], p.inner));
    let whole = n + 1u < vec4s;
    for (var e = 0u; e < READS; e++) {
      low[e] = x[at[e] + n];
      high[e] = select(vec4f(), x[at[e] + min(n + 1u, vec4s - 1u)], whole);
    }
    for (var e = 0u; e < READS; e++) {
      for (var r = 0u; r < SHARE; r++) {
        let u = subgroupShuffle(low[e], r);
        let v = subgroupShuffle(high[e], r);
        let i = SHARE * e + r;
        a[i] += u.x * vec4f(w0.a.x, w1.a.x, w2.a.x, w3.a.x) + u.y * vec4f(w0.a.y, w1.a.y, w2.a.y, w3.a.y)
              + u.z * vec4f(w0.a.z, w1.a.z, w2.a.z, w3.a.z) + u.w * vec4f(w0.a.w, w1.a.w, w2.a.w, w3.a.w)
              + v.x * vec4f(w0.b.x, w1.b.x, w2.b.x, w3.b.x) + v.y * vec4f(w0.b.y, w1.b.y, w2.b.y, w3.b.y)
              + v.z * vec4f(w0.b.z, w1.b.z, w2.b.z, w3.b.z) + v.w * vec4f(w0.b.w, w1.b.w, w2.b.w, w3.b.w);
        b[i] += u.x * vec4f(w4.a.x, w5.a.x, w6.a.x, w7.a.x) + u.y * vec4f(w4.a.y, w5.a.y, w6.a.y, w7.a.y)
              + u.z * vec4f(w4.a.z, w5.a.z, w6.a.z, w7.a.z) + u.w * vec4f(w4.a.w, w5.a.w, w6.a.w, w7.a.w)
              + v.x * vec4f(w4.b.x, w5.b.x, w6.b.x, w7.b.x) + v.y * vec4f(w4.b.y, w5.b.y, w6.b.y, w7.b.y)
              + v.z * vec4f(w4.b.z, w5.b.z, w6.b.z, w7.b.z) + v.w * vec4f(w4.b.w, w5.b.w, w6.b.w, w7.b.w);
      }
    }
  }
  for (var r = 0u; r < ROWS && row + r < p.rows; r++) {
    for (var j = 0u; j < 8u; j++) {
      let k = column + j * SUBGROUP;
      if (k >= p.inner) { continue; }
      let out = (p.start + row + r) * p.inner + k;
      let value = p.scale * select(a[r][j % 4u], b[r][j % 4u], j >= 4u);
      y[out] = select(value, y[out] + value, p.add != 0u);
    }
  }
}
