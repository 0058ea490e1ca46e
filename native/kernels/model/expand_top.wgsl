// y[t, ids[t, k]] = values[t, k] for the `top` logits that are known of a row, and elsewhere a logit of which nothing
// is left beside them; the largest of a row is 0. A row a workgroup.
struct Parameters { rows: u32, width: u32, top: u32 }
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const NOTHING = -1.0e4;

fn each(row: u32, lane: u32) {
  let base = row * p.width;
  for (var i = lane; i < p.width; i += LANES) { y[base + i] = NOTHING; }
  storageBarrier();
  for (var k = lane; k < p.top; k += LANES) { y[base + ids[row * p.top + k]] = values[row * p.top + k]; }
}
