// y[t] = features[id - first], for the tokens whose id is not below `first`: they stand for rows of an image.
struct Parameters { rows: u32, width: u32, first: u32 }
#include "layout.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> features: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn each(t: u32, lane: u32) {
  if (tokens[t][TOKEN_ID] < p.first) { return; }
  let row = tokens[t][TOKEN_ID] - p.first;
  for (var i = lane; i < p.width; i += LANES) { y[t * p.width + i] = features[row * p.width + i]; }
}
