// The gradient of what kernel norm read, from the gradient g of what it made, a row a workgroup. With h = (x - m) r, r
// = 1 / sqrt(mean((x - m)^2) + eps) and q = g (weight + plus): y = r (q - mean(q) - h mean(q h)) (+ y where `add` is
// not 0), without mean(q) for RMSNorm. Leaves (m, r) of every row for norm_weight_gradient.
struct Parameters { rows: u32, width: u32, eps: f32, plus: f32, centered: u32, add: u32 }
#include "weights.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> moments: array<vec2f>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

fn each(row: u32, lane: u32) {
  let base = row * p.width;
  var mean = 0.0;
  if (p.centered != 0u) {
    var sum = 0.0;
    for (var i = lane; i < p.width; i += LANES) { sum += x[base + i]; }
    mean = sum_all(sum, lane) / f32(p.width);
  }
  var squares = 0.0;
  for (var i = lane; i < p.width; i += LANES) {
    let value = x[base + i] - mean;
    squares += value * value;
  }
  let scale = 1.0 / sqrt(sum_all(squares, lane) / f32(p.width) + p.eps);
  var sum = 0.0;
  var along = 0.0;
  for (var i = lane; i < p.width; i += LANES) {
    let q = g[base + i] * (element(i) + p.plus);
    sum += q;
    along += q * ((x[base + i] - mean) * scale);
  }
  along = sum_all(along, lane) / f32(p.width);
  if (p.centered != 0u) { sum = sum_all(sum, lane) / f32(p.width); } else { sum = 0.0; }
  for (var i = lane; i < p.width; i += LANES) {
    let q = g[base + i] * (element(i) + p.plus);
    let value = scale * (q - sum - (x[base + i] - mean) * scale * along);
    y[base + i] = select(value, y[base + i] + value, p.add != 0u);
  }
  if (lane == 0u) { moments[row] = vec2f(mean, scale); }
}
