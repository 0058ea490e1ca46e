// y[i - first, j] += sum over the rows r of x that are picked of x[r, i] * x[r, j]: rows `first` to `first + rows` of
// the Gram matrix of the columns of x. An invocation makes 8 rows of 4 columns in registers.
// `picked` rows from word `list` of picks on
struct Parameters { width: u32, first: u32, rows: u32, list: u32, picked: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> picks: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const ROWS = 8u;

@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = wid.y * ROWS;
  let column = (wid.x * 16u + lane) * 4u;
  if (column >= p.width) { return; }
  // What is past the end reads the last one, and is not stored.
  let most = vec4u(p.width - 1u);
  let columns = min(vec4u(column) + vec4u(0u, 1u, 2u, 3u), most);
  var sums: array<vec4f, ROWS>;
  for (var i = 0u; i < p.picked; i++) {
    let at = picks[p.list + i] * p.width;
    let b = vec4f(x[at + columns.x], x[at + columns.y], x[at + columns.z], x[at + columns.w]);
    for (var r = 0u; r < ROWS; r++) { sums[r] += x[at + min(p.first + row + r, most.x)] * b; }
  }
  for (var r = 0u; r < ROWS && row + r < p.rows; r++) {
    for (var i = 0u; i < 4u && column + i < p.width; i++) { y[(row + r) * p.width + column + i] += sums[r][i]; }
  }
}
