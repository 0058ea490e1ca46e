// Rotary embedding in place, rotate-half: of each head, elements i and i + size / 2 turn by angle i of the token's
// position, or back by it where `back` is not 0 (which takes a gradient to what was turned). Angles are (cos, sin) from
// the host, in float64, a row of size / 2 a position.
struct Parameters { rows: u32, heads: u32, size: u32, back: u32 }
#include "layout.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> angles: array<vec2f>;
@group(0) @binding(2) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

fn each(t: u32, lane: u32) {
  let half = p.size / 2u;
  let position = tokens[t][TOKEN_ROW] - tokens[t][TOKEN_START];
  for (var pair = lane; pair < p.heads * half; pair += LANES) {
    let i = t * p.heads * p.size + pair / half * p.size + pair % half;
    let angle = angles[position * half + pair % half];
    let turn = vec2f(angle.x, select(angle.y, -angle.y, p.back != 0u));
    let a = x[i];
    let b = x[i + half];
    x[i] = a * turn.x - b * turn.y;
    x[i + half] = b * turn.x + a * turn.y;
  }
}
