// How far rows move, a row a workgroup: with d = b - a, y[row] = (a·a, a·d, d·d). The CPU takes angles from that
// without cancelling what a small step differs in.
struct Parameters { rows: u32, width: u32 }
#include "layout.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<ResidualDelta>;

fn each(row: u32, lane: u32) {
  var aa = 0.0;
  var ad = 0.0;
  var dd = 0.0;
  for (var i = lane; i < p.width; i += LANES) {
    let from_ = a[row * p.width + i];
    let step = b[row * p.width + i] - from_;
    aa += from_ * from_;
    ad += from_ * step;
    dd += step * step;
  }
  let sums = vec3f(sum_all(aa, lane), sum_all(ad, lane), sum_all(dd, lane));
  if (lane != 0u) { return; }
  y[row] = ResidualDelta(sums.x, sums.y, sums.z);
}
