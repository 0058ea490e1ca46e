// What kernel gemm is measured against, frozen: y = x Wt with 8 rows of one vec4 of columns an invocation, f32 weights
// [inner, columns], rows and widths that need no care. Neighbours read x for each other: where each invocation reads
// all 8 rows, lavapipe spends two thirds of the time on that. Do not improve it.
enable subgroups;
diagnostic(off, subgroup_uniformity);
struct Parameters { rows: u32, inner: u32, columns: u32 }
override SUBGROUP: u32; // invocations of a workgroup
override SHARE: u32 = min(8u, SUBGROUP); // neighbours that share what they read of x
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_invocation_id) neighbour: u32) {
  let columns = p.columns / 4u;
  let inner = p.inner / 4u;
  let column = wid.x * SUBGROUP + lane;
  let row = wid.y * 8u;
  var sums: array<vec4f, 8>;
  for (var k = 0u; k < inner; k++) {
    let a = w[4u * k * columns + column];
    let b = w[(4u * k + 1u) * columns + column];
    let c = w[(4u * k + 2u) * columns + column];
    let d = w[(4u * k + 3u) * columns + column];
    for (var first = 0u; first < 8u; first += SHARE) {
      let mine = x[(row + first + neighbour % SHARE) * inner + k];
      for (var r = 0u; r < SHARE; r++) {
        let v = subgroupShuffle(mine, r);
        sums[first + r] += v.x * a + v.y * b + v.z * c + v.w * d;
      }
    }
  }
  for (var r = 0u; r < 8u; r++) { y[(row + r) * columns + column] = sums[r]; }
}
