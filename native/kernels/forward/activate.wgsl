// x = f(x), with f of include/activations.wgsl.
struct Parameters { rows: u32, width: u32 }
#include "activations.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let row = wid.x + wid.y * nwg.x;
  if (row >= p.rows) { return; }
  for (var i = row * p.width + lane; i < (row + 1u) * p.width; i += 64u) { x[i] = activate(x[i]); }
}
