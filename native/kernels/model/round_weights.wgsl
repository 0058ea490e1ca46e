// y = x rounded to the 16-bit type that weights are stored in: what full training leaves in f32, as passes read it.
// Both lie as gemm reads matrices. An invocation writes four words, of eight elements.
struct Parameters { vec4s: u32 } // of y
#include "layout.wgsl"
#include "rounding.wgsl"
override DTYPE: u32;
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4u>;

fn rounded(bits: vec4u) -> vec4u {
  if (DTYPE == DTYPE_F16) { return to_f16(bits); }
  return to_bf16(bits);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (wid.x + wid.y * nwg.x) * 64u + lane;
  if (i >= p.vec4s) { return; }
  let a = rounded(x[2u * i]);
  let b = rounded(x[2u * i + 1u]);
  y[i] = vec4u(a.x | (a.y << 16u), a.z | (a.w << 16u), b.x | (b.y << 16u), b.z | (b.w << 16u));
}
