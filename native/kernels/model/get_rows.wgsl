// y[t] = scale * table[i] (+ y[t] where `add` is not 0); i is the id of t, or its position and an offset. Only for
// those i whose rows, `first` to `first + held` of the table, are in this part of it.
struct Parameters {
  rows: u32, width: u32, first: u32, held: u32, by_position: u32, offset: u32, scale: f32, add: u32,
}
#include "weights.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(2) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

fn each(t: u32, lane: u32) {
  let token = tokens[t];
  let id = select(token[TOKEN_ID], token[TOKEN_ROW] - token[TOKEN_START] + p.offset, p.by_position != 0u);
  if (id < p.first || id - p.first >= p.held) { return; }
  for (var d = lane; d < p.width; d += LANES) {
    var value = p.scale * element_at(id - p.first, d, p.width);
    if (p.add != 0u) { value += y[t * p.width + d]; }
    y[t * p.width + d] = value;
  }
}
