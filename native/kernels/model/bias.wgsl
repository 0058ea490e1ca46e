// y[t, n] += bias[n].
struct Parameters { rows: u32, width: u32 }
#include "weights.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

fn each(row: u32, lane: u32) {
  for (var i = lane; i < p.width; i += LANES) { y[row * p.width + i] += element(i); }
}
