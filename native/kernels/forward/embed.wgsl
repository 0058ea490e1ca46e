// y[t] = scale * table[i] (+ y[t] where `add` is not 0); i is the id of t, or its position and an offset. Only for those i
// whose rows, `first` to `first + rows` of the table, are in this part of it.
struct Parameters {
  tokens: u32, width: u32, first: u32, rows: u32, by_position: u32, offset: u32, scale: f32, add: u32,
}
#include "weights.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let t = wid.x + wid.y * nwg.x;
  if (t >= p.tokens) { return; }
  let token = tokens[t];
  let id = select(token.x, token.z - token.y + p.offset, p.by_position != 0u);
  if (id < p.first || id - p.first >= p.rows) { return; }
  for (var d = lane; d < p.width; d += 64u) {
    var value = p.scale * element_at(id - p.first, d, p.width);
    if (p.add != 0u) { value += y[t * p.width + d]; }
    y[t * p.width + d] = value;
  }
}
