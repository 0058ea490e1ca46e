// Squares of what a product of low rank leaves of rows of D: s[r, i] = sum_j (d[r, j] - sum_k b[first + r, k] a[k, j])^2
// over the i-th run of 64 columns j. With rank 0 these are the squares of D.
struct Parameters { rows: u32, columns: u32, rank: u32, first: u32 } // first: the row of B that goes with row 0
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> d: array<f32>;
@group(0) @binding(2) var<storage, read> a: array<f32>; // [rank, columns]
@group(0) @binding(3) var<storage, read> b: array<f32>; // [.., rank]
@group(0) @binding(4) var<storage, read_write> s: array<f32>;

const RUN = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let index = 64u * (group.x + group.y * groups.x) + lane;
  let runs = (p.columns + RUN - 1u) / RUN;
  let row = index / runs;
  if (row >= p.rows) { return; }
  let begin = index % runs * RUN;
  var sum = 0.0;
  for (var j = begin; j < min(p.columns, begin + RUN); j++) {
    var product = 0.0;
    for (var k = 0u; k < p.rank; k++) { product += b[(p.first + row) * p.rank + k] * a[k * p.columns + j]; }
    let rest = d[row * p.columns + j] - product;
    sum += rest * rest;
  }
  s[index] = sum;
}
