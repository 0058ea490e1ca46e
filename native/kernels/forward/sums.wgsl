// Sums of a linear, a workgroup an input i: y[2 i] += sum |W[o, i]|, y[2 i + 1] += sum W[o, i]^2 over the rows o of a block;
// or, where `by_output` is not 0, a workgroup a row of it, over all inputs. The first row of the block is row `first`.
struct Parameters { inputs: u32, rows: u32, by_output: u32, first: u32 }
#include "weights.wgsl"
#include "rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let line = row_of(wid, nwg);
  let outputs = p.by_output != 0u;
  if (line >= select(p.inputs, p.rows, outputs)) { return; }
  var size = 0.0;
  var squares = 0.0;
  for (var i = lane; i < select(p.rows, p.inputs, outputs); i += LANES) {
    let w = element_at(select(i, line, outputs), select(line, i, outputs), p.inputs);
    size += abs(w);
    squares += w * w;
  }
  let sums = vec2f(sum_all(size, lane), sum_all(squares, lane));
  if (lane != 0u) { return; }
  let at = 2u * (line + select(0u, p.first, outputs));
  y[at] += sums.x;
  y[at + 1u] += sums.y;
}
