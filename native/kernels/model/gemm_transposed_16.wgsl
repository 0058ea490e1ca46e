// y[start + t, k] = scale * sum over n of x[t, first + n] * W[n, k] (+ y), as gemm_transposed, for devices with
// subgroups of at least 4: an invocation makes 16 rows of 8 columns, SUBGROUP apart, in registers. Panels have
// neighbouring n beside each other, so a read of W is four terms of a column. Each of up to 8 neighbours reads another
// row of x, and gets the others' from them. `stride`, `first` and `columns` are multiples of 4. The products are
// written out, as in gemm_outer_16: with loops SwiftShader takes twice as long.
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
    let lx = vec4f(w0.x, w1.x, w2.x, w3.x);
    let ly = vec4f(w0.y, w1.y, w2.y, w3.y);
    let lz = vec4f(w0.z, w1.z, w2.z, w3.z);
    let lw = vec4f(w0.w, w1.w, w2.w, w3.w);
    let hx = vec4f(w4.x, w5.x, w6.x, w7.x);
    let hy = vec4f(w4.y, w5.y, w6.y, w7.y);
    let hz = vec4f(w4.z, w5.z, w6.z, w7.z);
    let hw = vec4f(w4.w, w5.w, w6.w, w7.w);
    let v0 = subgroupShuffle(mine[0u / SHARE], 0u % SHARE);
    a[0] += v0.x * lx + v0.y * ly + v0.z * lz + v0.w * lw;
    b[0] += v0.x * hx + v0.y * hy + v0.z * hz + v0.w * hw;
    let v1 = subgroupShuffle(mine[1u / SHARE], 1u % SHARE);
    a[1] += v1.x * lx + v1.y * ly + v1.z * lz + v1.w * lw;
    b[1] += v1.x * hx + v1.y * hy + v1.z * hz + v1.w * hw;
    let v2 = subgroupShuffle(mine[2u / SHARE], 2u % SHARE);
    a[2] += v2.x * lx + v2.y * ly + v2.z * lz + v2.w * lw;
    b[2] += v2.x * hx + v2.y * hy + v2.z * hz + v2.w * hw;
    let v3 = subgroupShuffle(mine[3u / SHARE], 3u % SHARE);
    a[3] += v3.x * lx + v3.y * ly + v3.z * lz + v3.w * lw;
    b[3] += v3.x * hx + v3.y * hy + v3.z * hz + v3.w * hw;
    let v4 = subgroupShuffle(mine[4u / SHARE], 4u % SHARE);
    a[4] += v4.x * lx + v4.y * ly + v4.z * lz + v4.w * lw;
    b[4] += v4.x * hx + v4.y * hy + v4.z * hz + v4.w * hw;
    let v5 = subgroupShuffle(mine[5u / SHARE], 5u % SHARE);
    a[5] += v5.x * lx + v5.y * ly + v5.z * lz + v5.w * lw;
    b[5] += v5.x * hx + v5.y * hy + v5.z * hz + v5.w * hw;
    let v6 = subgroupShuffle(mine[6u / SHARE], 6u % SHARE);
    a[6] += v6.x * lx + v6.y * ly + v6.z * lz + v6.w * lw;
    b[6] += v6.x * hx + v6.y * hy + v6.z * hz + v6.w * hw;
    let v7 = subgroupShuffle(mine[7u / SHARE], 7u % SHARE);
    a[7] += v7.x * lx + v7.y * ly + v7.z * lz + v7.w * lw;
    b[7] += v7.x * hx + v7.y * hy + v7.z * hz + v7.w * hw;
    let v8 = subgroupShuffle(mine[8u / SHARE], 8u % SHARE);
    a[8] += v8.x * lx + v8.y * ly + v8.z * lz + v8.w * lw;
    b[8] += v8.x * hx + v8.y * hy + v8.z * hz + v8.w * hw;
    let v9 = subgroupShuffle(mine[9u / SHARE], 9u % SHARE);
    a[9] += v9.x * lx + v9.y * ly + v9.z * lz + v9.w * lw;
    b[9] += v9.x * hx + v9.y * hy + v9.z * hz + v9.w * hw;
    let v10 = subgroupShuffle(mine[10u / SHARE], 10u % SHARE);
    a[10] += v10.x * lx + v10.y * ly + v10.z * lz + v10.w * lw;
    b[10] += v10.x * hx + v10.y * hy + v10.z * hz + v10.w * hw;
    let v11 = subgroupShuffle(mine[11u / SHARE], 11u % SHARE);
    a[11] += v11.x * lx + v11.y * ly + v11.z * lz + v11.w * lw;
    b[11] += v11.x * hx + v11.y * hy + v11.z * hz + v11.w * hw;
    let v12 = subgroupShuffle(mine[12u / SHARE], 12u % SHARE);
    a[12] += v12.x * lx + v12.y * ly + v12.z * lz + v12.w * lw;
    b[12] += v12.x * hx + v12.y * hy + v12.z * hz + v12.w * hw;
    let v13 = subgroupShuffle(mine[13u / SHARE], 13u % SHARE);
    a[13] += v13.x * lx + v13.y * ly + v13.z * lz + v13.w * lw;
    b[13] += v13.x * hx + v13.y * hy + v13.z * hz + v13.w * hw;
    let v14 = subgroupShuffle(mine[14u / SHARE], 14u % SHARE);
    a[14] += v14.x * lx + v14.y * ly + v14.z * lz + v14.w * lw;
    b[14] += v14.x * hx + v14.y * hy + v14.z * hz + v14.w * hw;
    let v15 = subgroupShuffle(mine[15u / SHARE], 15u % SHARE);
    a[15] += v15.x * lx + v15.y * ly + v15.z * lz + v15.w * lw;
    b[15] += v15.x * hx + v15.y * hy + v15.z * hz + v15.w * hw;
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
