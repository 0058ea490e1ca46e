// y[i] = sum over rows of g[t, i] (x[t, i] - m) r (+ y where `add` is not 0), with (m, r) of rows as norm_gradient
// leaves them: the gradient of a norm's weight. A column an invocation; sums are taken over runs of 64 rows, and those
// added in order.
struct Parameters { rows: u32, width: u32, add: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> moments: array<vec2f>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const RUN = 64u;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
  if (i >= p.width) { return; }
  var total = 0.0;
  for (var begin = 0u; begin < p.rows; begin += RUN) {
    var sum = 0.0;
    let end = min(p.rows, begin + RUN);
    for (var t = begin; t < end; t++) {
      let row = moments[t];
      sum += g[t * p.width + i] * ((x[t * p.width + i] - row.x) * row.y);
    }
    total += sum;
  }
  y[i] = select(total, y[i] + total, p.add != 0u);
}
