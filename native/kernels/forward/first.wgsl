// y[t] = weight, for the tokens t that are the first of their sequence: a class token takes the place of a patch.
struct Parameters { tokens: u32, width: u32 }
#include "weights.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let t = wid.x + wid.y * nwg.x;
  if (t >= p.tokens || tokens[t].y != tokens[t].z) { return; }
  for (var i = lane; i < p.width; i += 64u) { y[t * p.width + i] = element(i); }
}
