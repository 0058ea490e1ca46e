// What a block of pruned columns leaves to those behind it: w[k, row] -= sum over j of errors[j, row] * u[j, k], for
// columns k from `first` on. An invocation makes 8 columns of a row; `u` has `count` rows of U.
struct Parameters { rows: u32, inputs: u32, first: u32, count: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read> errors: array<f32>;
@group(0) @binding(3) var<storage, read_write> w: array<f32>;

const COLUMNS = 8u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(workgroup_id) wid: vec3u) {
  let row = id.x;
  if (row >= p.rows) { return; }
  let column = p.first + wid.y * COLUMNS;
  var sums: array<f32, COLUMNS>;
  for (var j = 0u; j < p.count; j++) {
    let e = errors[j * p.rows + row];
    // Past the end the last column is read, and nothing is stored.
    for (var i = 0u; i < COLUMNS; i++) { sums[i] += e * u[j * p.inputs + min(column + i, p.inputs - 1u)]; }
  }
  for (var i = 0u; i < COLUMNS && column + i < p.inputs; i++) { w[(column + i) * p.rows + row] -= sums[i]; }
}
