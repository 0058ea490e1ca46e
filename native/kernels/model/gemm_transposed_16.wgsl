// y[start + t, k] = scale * sum over n of x[t, first + n] * W[n, k] (+ y), as gemm_transposed, for devices with
// subgroups of at least 4: an invocation makes 16 rows of 8 columns, SUBGROUP apart, in registers. Panels have
// neighbouring n beside each other, so a read of W is four terms of a column. Each of up to 8 neighbours reads another
// row of x, and gets the others' from them. `stride`, `first` and `columns` are multiples of 4.
enable subgroups;
diagnostic(off, subgroup_uniformity);
// stride: of x
struct Parameters {
  rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32, add: u32, scale: f32,
}
#include "weights_across.wgsl"
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
  let k0 = min(column, p.inner - 1u);
  let k1 = min(column + SUBGROUP, p.inner - 1u);
  let k2 = min(column + 2u * SUBGROUP, p.inner - 1u);
  let k3 = min(column + 3u * SUBGROUP, p.inner - 1u);
  let k4 = min(column + 4u * SUBGROUP, p.inner - 1u);
  let k5 = min(column + 5u * SUBGROUP, p.inner - 1u);
  let k6 = min(column + 6u * SUBGROUP, p.inner - 1u);
  let k7 = min(column + 7u * SUBGROUP, p.inner - 1u);
  var at: array<u32, 4>;
  for (var e = 0u; e < READS; e++) {
    at[e] = (min(row + SHARE * e + neighbour % SHARE, p.rows - 1u) * p.stride + p.first) / 4u;
  }
  var mine: array<vec4f, 4>;
  var a: array<vec4f, ROWS>;
  var b: array<vec4f, ROWS>;
  for (var n = 0u; n < vec4s; n++) {
    let w0 = across(n, k0, p.inner);
    let w1 = across(n, k1, p.inner);
    let w2 = across(n, k2, p.inner);
    let w3 = across(n, k3, p.inner);
    let w4 = across(n, k4, p.inner);
    let w5 = across(n, k5, p.inner);
    let w6 = across(n, k6, p.inner);
    let w7 = across(n, k7, p.inner);
    for (var e = 0u; e < READS; e++) { mine[e] = x[at[e] + n]; }
    for (var e = 0u; e < READS; e++) {
      for (var r = 0u; r < SHARE; r++) {
        let v = subgroupShuffle(mine[e], r);
        let i = SHARE * e + r;
        a[i] += v.x * vec4f(w0.x, w1.x, w2.x, w3.x) + v.y * vec4f(w0.y, w1.y, w2.y, w3.y)
              + v.z * vec4f(w0.z, w1.z, w2.z, w3.z) + v.w * vec4f(w0.w, w1.w, w2.w, w3.w);
        b[i] += v.x * vec4f(w4.x, w5.x, w6.x, w7.x) + v.y * vec4f(w4.y, w5.y, w6.y, w7.y)
              + v.z * vec4f(w4.z, w5.z, w6.z, w7.z) + v.w * vec4f(w4.w, w5.w, w6.w, w7.w);
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
