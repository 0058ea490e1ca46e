// Kernels of single elements, four an invocation: `each` says what becomes of vec4 i of the buffers.
struct Parameters { vec4s: u32 } // the last of them may reach past the end, into what is no row
@group(0) @binding(0) var<storage, read> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (wid.x + wid.y * nwg.x) * 64u + lane;
  if (i < p.vec4s) { each(i); }
}
