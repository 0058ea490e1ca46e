// y[t] = weight, for the tokens t that are the first of their sequence: a class token takes the place of a patch.
struct Parameters { rows: u32, width: u32 }
#include "weights.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn each(t: u32, lane: u32) {
  if (tokens[t][TOKEN_START] != tokens[t][TOKEN_ROW]) { return; }
  for (var i = lane; i < p.width; i += LANES) { y[t * p.width + i] = element(i); }
}
