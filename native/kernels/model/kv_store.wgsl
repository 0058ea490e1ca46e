// Row t of x goes to the token's row in the cache.
struct Parameters { rows: u32, width: u32 }
#include "layout.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> cache: array<f32>;

fn each(t: u32, lane: u32) {
  for (var i = lane; i < p.width; i += LANES) { cache[tokens[t][TOKEN_ROW] * p.width + i] = x[t * p.width + i]; }
}
