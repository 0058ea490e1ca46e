// Sums over the outputs of a linear, an input a workgroup: y[2 i] += sum |W[o, i]|, y[2 i + 1] += sum W[o, i]^2, over the
// rows o of a block.
struct Parameters { inputs: u32, rows: u32 }
#include "weights.wgsl"
#include "rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let input = row_of(wid, nwg);
  if (input >= p.inputs) { return; }
  var size = 0.0;
  var squares = 0.0;
  for (var o = lane; o < p.rows; o += LANES) {
    let w = element_at(o, input, p.inputs);
    size += abs(w);
    squares += w * w;
  }
  let sums = vec2f(sum_all(size, lane), sum_all(squares, lane));
  if (lane != 0u) { return; }
  y[2u * input] += sums.x;
  y[2u * input + 1u] += sums.y;
}
