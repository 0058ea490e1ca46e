// y[i] = sum over rows of g[t, first + i] (+ y where `add` is not 0): the gradient of a bias. A column an invocation;
// sums are taken over runs of 64 rows, and those added in order.
struct Parameters { rows: u32, width: u32, first: u32, stride: u32, add: u32 } // stride: of g
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const RUN = 64u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  if (i >= p.width) { return; }
  var total = 0.0;
  for (var begin = 0u; begin < p.rows; begin += RUN) {
    var sum = 0.0;
    let end = min(p.rows, begin + RUN);
    for (var t = begin; t < end; t++) { sum += g[t * p.stride + p.first + i]; }
    total += sum;
  }
  y[i] = select(total, y[i] + total, p.add != 0u);
}
