// x[t, n] *= mask[n].
struct Parameters { rows: u32, width: u32 }
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> mask: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

fn each(row: u32, lane: u32) {
  for (var i = lane; i < p.width; i += LANES) { x[row * p.width + i] *= mask[i]; }
}
