// x = f(x), with f of include/activations.wgsl, four elements an invocation.
struct Parameters { quads: u32 } // the last of them may reach past the end, into what is no row
#include "activations.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (wid.x + wid.y * nwg.x) * 64u + lane;
  if (i >= p.quads) { return; }
  let v = x[i];
  x[i] = vec4f(activate(v.x), activate(v.y), activate(v.z), activate(v.w));
}
