// What the gradients of attention share. A pass of which a gradient is taken has its tokens in the order of their
// sequences, so that token t has row t of keys and values. With L = log of the sum of exp(score), P = exp(score - L) is
// the weight of a key, dP = g v its gradient, and dS = P (dP - D) that of the score; D is the dot product of y and g.
#include "layout.wgsl"
// groups: KV heads
struct Parameters { tokens: u32, heads: u32, groups: u32, size: u32, scale: f32, window: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;

// The first row that a token sees; the last one is its own.
fn first_seen(t: u32) -> u32 {
  let start = tokens[t][TOKEN_START];
  let end = t + 1u;
  return select(start, end - p.window, p.window > 0u && end - start > p.window);
}

// The token behind the last one that sees row t, up to `limit`.
fn end_of_seeing(t: u32) -> u32 {
  let limit = select(p.tokens, min(p.tokens, t + p.window), p.window > 0u);
  let start = tokens[t][TOKEN_START];
  var end = t + 1u;
  while (end < limit && tokens[end][TOKEN_START] == start) { end++; }
  return end;
}
