// y[at] = the sum of x[first .. first + count], in a fixed order; one workgroup.
struct Parameters { rows: u32, first: u32, count: u32, at: u32 } // rows: 1
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

fn each(row: u32, lane: u32) {
  var sum = 0.0;
  for (var i = lane; i < p.count; i += LANES) { sum += x[p.first + i]; }
  let all = sum_all(sum, lane);
  if (lane == 0u) { y[p.at] = all; }
}
