// Rows of the cache that sequences with the same beginning share are copied: row copies[i].y = row copies[i].x, a row a
// workgroup.
struct Parameters { rows: u32, width: u32 }
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> copies: array<vec2u>;
@group(0) @binding(2) var<storage, read_write> cache: array<f32>;

fn each(i: u32, lane: u32) {
  let rows = copies[i] * p.width;
  for (var d = lane; d < p.width; d += LANES) { cache[rows.y + d] = cache[rows.x + d]; }
}
