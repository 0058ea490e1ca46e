// y[list[i]] = x[i], rows.
struct Parameters { rows: u32, width: u32 }
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> list: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn each(i: u32, lane: u32) {
  for (var d = lane; d < p.width; d += LANES) { y[list[i] * p.width + d] = x[i * p.width + d]; }
}
