// y[t] = features[id - first], for the tokens whose id is not below `first`: they stand for rows of an image.
struct Parameters { tokens: u32, width: u32, first: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> features: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let t = wid.x + wid.y * nwg.x;
  if (t >= p.tokens || tokens[t].x < p.first) { return; }
  let row = tokens[t].x - p.first;
  for (var i = lane; i < p.width; i += 64u) { y[t * p.width + i] = features[row * p.width + i]; }
}
