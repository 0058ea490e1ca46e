// y[t, first + n] = scale * sum over k of x[start + t, k] * W[n, k] (+ y), as gemm, for devices with subgroups of at
// least 4: an invocation makes ROWS rows of one vec8 of columns in registers. Each of up to 8 neighbours reads 4 other
// elements of x, of another row or, where there are fewer rows, further on in the same, and gets the others' from them:
// on a CPU a read costs many times what a product does. Products are added in pairs, as in the other forms, so that a
// row has the same numbers whatever the number of rows. `inner` is a multiple of 4.
enable subgroups;
diagnostic(off, subgroup_uniformity);
// stride: of y
struct Parameters {
  rows: u32, inner: u32, columns: u32, first: u32, stride: u32, start: u32, add: u32, scale: f32,
}
#include "packed.wgsl"
override SUBGROUP: u32; // invocations of a workgroup
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

override SHARE: u32 = min(8u, SUBGROUP); // neighbours that share what they read of x
override APART: u32 = min(ROWS, SHARE); // of them read different rows
override STEP: u32 = SHARE / APART; // vec4s of a row that they read together
override READS: u32 = ROWS / APART;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_invocation_id) neighbour: u32) {
  let vec8s = (p.columns + 7u) / 8u;
  let column = wid.x * SUBGROUP + lane;
  let row = wid.y * ROWS;
  let vec4s = p.inner / 4u;
  // Columns and rows past the end read the last ones, and store nothing.
  let own = min(column, vec8s - 1u);
  var at: array<u32, (ROWS + 3u) / 4u>;
  for (var e = 0u; e < READS; e++) {
    at[e] = (p.start + min(row + APART * e + neighbour % APART, p.rows - 1u)) * vec4s;
  }
  let ahead = neighbour % SHARE / APART;
  var mine: array<vec4f, (ROWS + 3u) / 4u>;
  var a: array<vec4f, ROWS>;
  var b: array<vec4f, ROWS>;
  for (var k = 0u; k < vec4s; k++) {
    // Names of their own: SwiftShader keeps arrays in memory.
    let w0 = vec8(vec8_at(own, 4u * k, p.inner));
    let w1 = vec8(vec8_at(own, 4u * k + 1u, p.inner));
    let w2 = vec8(vec8_at(own, 4u * k + 2u, p.inner));
    let w3 = vec8(vec8_at(own, 4u * k + 3u, p.inner));
    if (k % STEP == 0u) {
      for (var e = 0u; e < READS; e++) { mine[e] = x[at[e] + min(k + ahead, vec4s - 1u)]; }
    }
    for (var e = 0u; e < READS; e++) {
      for (var r = 0u; r < APART; r++) {
        let v = subgroupShuffle(mine[e], k % STEP * APART + r);
        a[APART * e + r] = (a[APART * e + r] + (v.x * w0.a + v.y * w1.a)) + (v.z * w2.a + v.w * w3.a);
        b[APART * e + r] = (b[APART * e + r] + (v.x * w0.b + v.y * w1.b)) + (v.z * w2.b + v.w * w3.b);
      }
    }
  }
  if (column >= vec8s) { return; }
  for (var r = 0u; r < ROWS && row + r < p.rows; r++) {
    let out = (row + r) * p.stride + p.first + column * 8u;
    for (var i = 0u; i < 8u && column * 8u + i < p.columns; i++) {
      let value = p.scale * select(a[r][i % 4u], b[r][i % 4u], i >= 4u);
      y[out + i] = select(value, y[out + i] + value, p.add != 0u);
    }
  }
}
