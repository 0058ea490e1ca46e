// x *= scale.
struct Parameters { vec4s: u32, scale: f32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (wid.x + wid.y * nwg.x) * 64u + lane;
  if (i < p.vec4s) { x[i] *= p.scale; }
}
