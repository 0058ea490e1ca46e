// y = x in f32: weights of a 16-bit type that are trained. Both lie as gemm reads matrices.
struct Parameters { vec8s: u32 }
#include "weights.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (wid.x + wid.y * nwg.x) * 64u + lane;
  if (i >= p.vec8s) { return; }
  let w = vec8(i);
  y[2u * i] = w.a;
  y[2u * i + 1u] = w.b;
}
