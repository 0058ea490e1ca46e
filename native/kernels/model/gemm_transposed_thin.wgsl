// y[start + t, k] = scale * sum over n of x[t, first + n] * W[n, k] (+ y), as gemm_transposed_16, for few k, such as
// the rank of an adapter: an invocation makes 16 k of 8 rows, SUBGROUP apart. Each of up to 8 neighbours reads W for
// another k, and gets the others' from them.
enable subgroups;
diagnostic(off, subgroup_uniformity);
// stride: of x
struct Parameters {
  rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32, add: u32, scale: f32,
}
#include "weights_across.wgsl"
override SUBGROUP: u32; // invocations of a workgroup
override SHARE: u32 = min(8u, SUBGROUP); // neighbours that share what they read of x
override READS: u32 = COLUMNS / SHARE;
const COLUMNS = 16u;
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_invocation_id) neighbour: u32) {
  let row = wid.x * SUBGROUP * 8u + lane;
  let column = wid.y * COLUMNS;
  let vec4s = p.columns / 4u;
  // Columns and rows past the end read the last ones, and store nothing.
  let x0 = (min(row, p.rows - 1u) * p.stride + p.first) / 4u;
  let x1 = (min(row + 1u * SUBGROUP, p.rows - 1u) * p.stride + p.first) / 4u;
  let x2 = (min(row + 2u * SUBGROUP, p.rows - 1u) * p.stride + p.first) / 4u;
  let x3 = (min(row + 3u * SUBGROUP, p.rows - 1u) * p.stride + p.first) / 4u;
  let x4 = (min(row + 4u * SUBGROUP, p.rows - 1u) * p.stride + p.first) / 4u;
  let x5 = (min(row + 5u * SUBGROUP, p.rows - 1u) * p.stride + p.first) / 4u;
  let x6 = (min(row + 6u * SUBGROUP, p.rows - 1u) * p.stride + p.first) / 4u;
  let x7 = (min(row + 7u * SUBGROUP, p.rows - 1u) * p.stride + p.first) / 4u;
  var mine: array<vec4f, 4>;
  var a: array<vec4f, COLUMNS>;
  var b: array<vec4f, COLUMNS>;
  for (var n = 0u; n < vec4s; n++) {
    let w0 = x[x0 + n];
    let w1 = x[x1 + n];
    let w2 = x[x2 + n];
    let w3 = x[x3 + n];
    let w4 = x[x4 + n];
    let w5 = x[x5 + n];
    let w6 = x[x6 + n];
    let w7 = x[x7 + n];
    for (var e = 0u; e < READS; e++) {
      mine[e] = across(n, min(column + SHARE * e + neighbour % SHARE, p.inner - 1u), p.inner);
    }
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
  for (var j = 0u; j < 8u; j++) {
    let t = row + j * SUBGROUP;
    if (t >= p.rows) { continue; }
    for (var k = 0u; k < COLUMNS && column + k < p.inner; k++) {
      let out = (p.start + t) * p.inner + column + k;
      let value = p.scale * select(a[k][j % 4u], b[k][j % 4u], j >= 4u);
      y[out] = select(value, y[out] + value, p.add != 0u);
    }
  }
}
