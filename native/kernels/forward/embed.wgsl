// y[t] = table[id of t], for the ids whose rows `first` to `first + rows` of the table are in this part of it.
struct Parameters { tokens: u32, width: u32, first: u32, rows: u32, stride: u32 } // stride: of a row of `weights`
#include "weights.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let t = wid.x + wid.y * nwg.x;
  if (t >= p.tokens) { return; }
  let id = tokens[t].x;
  if (id < p.first || id - p.first >= p.rows) { return; }
  for (var d = lane; d < p.width; d += 64u) { y[t * p.width + d] = element(d * p.stride + id - p.first); }
}
