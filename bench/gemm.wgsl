// What kernel gemm is measured against, frozen: y = x Wt with 8 rows of one vec4 of columns an invocation, f32 weights
// [inner, columns], rows and widths that need no care. Do not improve it.
struct Parameters { rows: u32, inner: u32, columns: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(16)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let columns = p.columns / 4u;
  let inner = p.inner / 4u;
  let row = id.y * 8u;
  if (id.x >= columns || row >= p.rows) { return; }
  var sums: array<vec4f, 8>;
  for (var k = 0u; k < inner; k++) {
    let a = w[4u * k * columns + id.x];
    let b = w[(4u * k + 1u) * columns + id.x];
    let c = w[(4u * k + 2u) * columns + id.x];
    let d = w[(4u * k + 3u) * columns + id.x];
    for (var r = 0u; r < 8u; r++) {
      let v = x[(row + r) * inner + k];
      sums[r] += v.x * a + v.y * b + v.z * c + v.w * d;
    }
  }
  for (var r = 0u; r < 8u; r++) { y[(row + r) * columns + id.x] = sums[r]; }
}
