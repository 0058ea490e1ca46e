// y[i] = sum over rows of g[t, i] x[t, i] / norms[i] (+ y where `add` is not 0): the gradient of a magnitude of DoRA,
// from the gradient g of what dora_scale made of x. A column an invocation; sums are taken over runs of 64 rows, and
// those added in order. Zero where a norm is.
struct Parameters { rows: u32, width: u32, add: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> norms: array<f32>;
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
    for (var t = begin; t < end; t++) { sum += g[t * p.width + i] * x[t * p.width + i]; }
    total += sum;
  }
  let value = select(0.0, total / norms[i], norms[i] > 0.0);
  y[i] = select(value, y[i] + value, p.add != 0u);
}
