// y[t, i] (+)= x[t, i] (magnitude[i] / norms[i] - less): what a DoRA with dropout adds to a product, where the
// magnitude counts for what is left of the input alone; and its gradient. The quotient is 0 where a norm is.
struct Parameters { rows: u32, width: u32, less: f32, add: u32 }
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> magnitude: array<f32>;
@group(0) @binding(2) var<storage, read> norms: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

fn each(row: u32, lane: u32) {
  for (var i = lane; i < p.width; i += LANES) {
    let at = row * p.width + i;
    let value = x[at] * (select(0.0, magnitude[i] / norms[i], norms[i] > 0.0) - p.less);
    y[at] = select(value, y[at] + value, p.add != 0u);
  }
}
