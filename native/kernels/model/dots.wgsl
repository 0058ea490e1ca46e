// y[start + i] = scale * the sum of products of block i of x and z, BLOCK elements each, in a fixed order.
struct Parameters { rows: u32, elements: u32, start: u32, scale: f32 } // rows: blocks
#include "layout.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> z: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn each(row: u32, lane: u32) {
  var sum = 0.0;
  for (var i = row * BLOCK + lane; i < min((row + 1u) * BLOCK, p.elements); i += LANES) { sum += x[i] * z[i]; }
  let total = sum_all(sum, lane);
  if (lane == 0u) { y[p.start + row] = p.scale * total; }
}
