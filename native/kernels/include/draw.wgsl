// Random numbers of the elements of a tile.
#include "philox.wgsl"

struct Draw { a: vec4u, b: vec4u }

// Where the random numbers of an input of a segment come from: seed, hash of tensor name and model, first flat index.
struct Stream { key: vec2u, hash: vec2u, lo: u32, hi: u32 }

fn stream_of(p: Place, i: u32) -> Stream {
  let hash = p.rec + 6u + INPUTS + 2u * i;
  return Stream(seed, vec2u(table[hash], table[hash + 1u]), flat.x, flat.y);
}

// The random words of an octet: counter = (element index >> 2, hash).
fn draw_from(s: Stream, octet: u32) -> Draw {
  let first = s.lo + octet * 8u;
  let first_hi = s.hi + select(0u, 1u, first < s.lo);
  let quad = (first >> 2u) | (first_hi << 30u);
  let quad_hi = first_hi >> 2u;
  // The first index of an octet is a multiple of 8, so `quad + 1` cannot carry.
  return Draw(philox(vec4u(quad, quad_hi, s.hash), s.key), philox(vec4u(quad + 1u, quad_hi, s.hash), s.key));
}

fn draw(p: Place, i: u32) -> Draw { return draw_from(stream_of(p, i), p.octet); }
