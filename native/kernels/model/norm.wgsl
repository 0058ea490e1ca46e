// y = (x - m) / sqrt(mean((x - m)^2) + eps) * (weight + plus), a row a workgroup. RMSNorm: m is 0; LayerNorm, where
// `centered` is not 0: m is the mean of the row (its bias is added by kernel bias).
struct Parameters { rows: u32, width: u32, eps: f32, plus: f32, centered: u32 }
#include "weights.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn each(row: u32, lane: u32) {
  var mean = 0.0;
  if (p.centered != 0u) {
    var sum = 0.0;
    for (var i = lane; i < p.width; i += LANES) { sum += x[row * p.width + i]; }
    mean = sum_all(sum, lane) / f32(p.width);
  }
  var squares = 0.0;
  for (var i = lane; i < p.width; i += LANES) {
    let value = x[row * p.width + i] - mean;
    squares += value * value;
  }
  let scale = 1.0 / sqrt(sum_all(squares, lane) / f32(p.width) + p.eps);
  for (var i = lane; i < p.width; i += LANES) {
    y[row * p.width + i] = (x[row * p.width + i] - mean) * scale * (element(i) + p.plus);
  }
}
