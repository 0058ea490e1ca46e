// y[n, k] = sum over t of g[t, first + n] * x[start + t, k] (+ y), as gemm_outer, for devices with subgroups of at
// least 4: an invocation makes 16 k of one vec8 of n in registers, four rows at a time. Each of up to 8 neighbours
// reads other elements of x and gets the others' from them. Widths are multiples of 4. Sums are taken over runs of 64
// rows, and those added in order. The products are written out: an array that a loop goes through may lie in memory,
// which takes four times as long.
enable subgroups;
diagnostic(off, subgroup_uniformity);
#include "layout.wgsl"
// stride: of g
struct Parameters { rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32, add: u32 }
override SUBGROUP: u32; // invocations of a workgroup
override SHARE: u32 = min(8u, SUBGROUP); // neighbours that share what they read of x
override READS: u32 = STEP * 4u / SHARE;
const STEP = 4u; // rows at a time
const RUN = 64u;
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> g: array<vec4f>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_invocation_id) neighbour: u32) {
  let vec4s = p.columns / 4u;
  let column = wid.x * SUBGROUP + lane;
  // Columns past the end read the last ones, and store nothing; so do k.
  let own = min(2u * column, vec4s - 1u);
  let next = min(2u * column + 1u, vec4s - 1u);
  let stride = p.stride / 4u;
  let inner = p.inner / 4u;
  let k = wid.y * 4u;
  var mine: array<vec4f, 4>;
  var a: array<vec4f, 16>;
  var b: array<vec4f, 16>;
  var c: array<vec4f, 16>;
  var d: array<vec4f, 16>;
  for (var begin = 0u; begin < p.rows; begin += RUN) {
    for (var i = 0u; i < 16u; i++) {
      a[i] = vec4f();
      b[i] = vec4f();
    }
    let end = min(p.rows, begin + RUN);
    for (var t = begin; t < end; t += STEP) {
      // Vec4 i % 4 of row t + i / 4; rows past the end are zeros in g.
      for (var e = 0u; e < READS; e++) {
        let i = e * SHARE + neighbour % SHARE;
        mine[e] = x[(p.start + min(t + i / 4u, p.rows - 1u)) * inner + min(k + i % 4u, inner - 1u)];
      }
      let g0 = t * stride + p.first / 4u;
      let g1 = min(t + 1u, p.rows - 1u) * stride + p.first / 4u;
      let g2 = min(t + 2u, p.rows - 1u) * stride + p.first / 4u;
      let g3 = min(t + 3u, p.rows - 1u) * stride + p.first / 4u;
      let a0 = g[g0 + own];
      let b0 = g[g0 + next];
      let a1 = select(vec4f(), g[g1 + own], t + 1u < p.rows);
      let b1 = select(vec4f(), g[g1 + next], t + 1u < p.rows);
      let a2 = select(vec4f(), g[g2 + own], t + 2u < p.rows);
      let b2 = select(vec4f(), g[g2 + next], t + 2u < p.rows);
      let a3 = select(vec4f(), g[g3 + own], t + 3u < p.rows);
      let b3 = select(vec4f(), g[g3 + next], t + 3u < p.rows);
      {
        let x0 = subgroupShuffle(mine[0u / SHARE], 0u % SHARE);
        let x1 = subgroupShuffle(mine[4u / SHARE], 4u % SHARE);
        let x2 = subgroupShuffle(mine[8u / SHARE], 8u % SHARE);
        let x3 = subgroupShuffle(mine[12u / SHARE], 12u % SHARE);
        a[0] += x0.x * a0 + x1.x * a1 + x2.x * a2 + x3.x * a3;
        b[0] += x0.x * b0 + x1.x * b1 + x2.x * b2 + x3.x * b3;
        a[1] += x0.y * a0 + x1.y * a1 + x2.y * a2 + x3.y * a3;
        b[1] += x0.y * b0 + x1.y * b1 + x2.y * b2 + x3.y * b3;
        a[2] += x0.z * a0 + x1.z * a1 + x2.z * a2 + x3.z * a3;
        b[2] += x0.z * b0 + x1.z * b1 + x2.z * b2 + x3.z * b3;
        a[3] += x0.w * a0 + x1.w * a1 + x2.w * a2 + x3.w * a3;
        b[3] += x0.w * b0 + x1.w * b1 + x2.w * b2 + x3.w * b3;
      }
      {
        let x0 = subgroupShuffle(mine[1u / SHARE], 1u % SHARE);
        let x1 = subgroupShuffle(mine[5u / SHARE], 5u % SHARE);
        let x2 = subgroupShuffle(mine[9u / SHARE], 9u % SHARE);
        let x3 = subgroupShuffle(mine[13u / SHARE], 13u % SHARE);
        a[4] += x0.x * a0 + x1.x * a1 + x2.x * a2 + x3.x * a3;
        b[4] += x0.x * b0 + x1.x * b1 + x2.x * b2 + x3.x * b3;
        a[5] += x0.y * a0 + x1.y * a1 + x2.y * a2 + x3.y * a3;
        b[5] += x0.y * b0 + x1.y * b1 + x2.y * b2 + x3.y * b3;
        a[6] += x0.z * a0 + x1.z * a1 + x2.z * a2 + x3.z * a3;
        b[6] += x0.z * b0 + x1.z * b1 + x2.z * b2 + x3.z * b3;
        a[7] += x0.w * a0 + x1.w * a1 + x2.w * a2 + x3.w * a3;
        b[7] += x0.w * b0 + x1.w * b1 + x2.w * b2 + x3.w * b3;
      }
      {
        let x0 = subgroupShuffle(mine[2u / SHARE], 2u % SHARE);
        let x1 = subgroupShuffle(mine[6u / SHARE], 6u % SHARE);
        let x2 = subgroupShuffle(mine[10u / SHARE], 10u % SHARE);
        let x3 = subgroupShuffle(mine[14u / SHARE], 14u % SHARE);
        a[8] += x0.x * a0 + x1.x * a1 + x2.x * a2 + x3.x * a3;
        b[8] += x0.x * b0 + x1.x * b1 + x2.x * b2 + x3.x * b3;
        a[9] += x0.y * a0 + x1.y * a1 + x2.y * a2 + x3.y * a3;
        b[9] += x0.y * b0 + x1.y * b1 + x2.y * b2 + x3.y * b3;
        a[10] += x0.z * a0 + x1.z * a1 + x2.z * a2 + x3.z * a3;
        b[10] += x0.z * b0 + x1.z * b1 + x2.z * b2 + x3.z * b3;
        a[11] += x0.w * a0 + x1.w * a1 + x2.w * a2 + x3.w * a3;
        b[11] += x0.w * b0 + x1.w * b1 + x2.w * b2 + x3.w * b3;
      }
      {
        let x0 = subgroupShuffle(mine[3u / SHARE], 3u % SHARE);
        let x1 = subgroupShuffle(mine[7u / SHARE], 7u % SHARE);
        let x2 = subgroupShuffle(mine[11u / SHARE], 11u % SHARE);
        let x3 = subgroupShuffle(mine[15u / SHARE], 15u % SHARE);
        a[12] += x0.x * a0 + x1.x * a1 + x2.x * a2 + x3.x * a3;
        b[12] += x0.x * b0 + x1.x * b1 + x2.x * b2 + x3.x * b3;
        a[13] += x0.y * a0 + x1.y * a1 + x2.y * a2 + x3.y * a3;
        b[13] += x0.y * b0 + x1.y * b1 + x2.y * b2 + x3.y * b3;
        a[14] += x0.z * a0 + x1.z * a1 + x2.z * a2 + x3.z * a3;
        b[14] += x0.z * b0 + x1.z * b1 + x2.z * b2 + x3.z * b3;
        a[15] += x0.w * a0 + x1.w * a1 + x2.w * a2 + x3.w * a3;
        b[15] += x0.w * b0 + x1.w * b1 + x2.w * b2 + x3.w * b3;
      }
    }
    for (var i = 0u; i < 16u; i++) {
      c[i] += a[i];
      d[i] += b[i];
    }
  }
  // Two vec4s of a panel's row.
  let place = column % (PANEL_COLUMNS / 8u) * 2u;
  let out = (column / (PANEL_COLUMNS / 8u) * p.inner + 4u * k) * (PANEL_COLUMNS / 4u) + place;
  for (var i = 0u; i < 16u && 4u * k + i < p.inner; i++) {
    let at = out + i * (PANEL_COLUMNS / 4u);
    if (2u * column < vec4s) { y[at] = select(c[i], y[at] + c[i], p.add != 0u); }
    if (2u * column + 1u < vec4s) { y[at + 1u] = select(d[i], y[at + 1u] + d[i], p.add != 0u); }
  }
}
