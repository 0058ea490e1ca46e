// y[i] = sum over rows of g[t, i] (x[t, i] - m) r (+ y where `add` is not 0), with (m, r) of rows as norm_gradient
// leaves them: the gradient of a norm's weight.
struct Parameters { rows: u32, width: u32, add: u32 }
#include "main_columns.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> moments: array<vec2f>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

fn term(t: u32, i: u32) -> f32 {
  let row = moments[t];
  return g[t * p.width + i] * ((x[t * p.width + i] - row.x) * row.y);
}
fn whole(total: f32, i: u32) -> f32 { return total; }
