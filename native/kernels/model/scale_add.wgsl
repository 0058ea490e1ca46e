// y = scale * x, or y += scale * x.
struct Parameters { vec4s: u32, scale: f32, add: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (wid.x + wid.y * nwg.x) * 64u + lane;
  if (i >= p.vec4s) { return; }
  y[i] = select(vec4f(), y[i], p.add == 1u) + p.scale * x[i];
}
