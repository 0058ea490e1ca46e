// Random numbers of the elements of a tile.
#include "philox.wgsl"

struct Draw { a: vec4u, b: vec4u }

// Where the random numbers of an input in a block come from: counters are (element index >> 2, hash of tensor name and
// model). A block never crosses a multiple of 2^34 elements, so that one high word serves all of it.
struct Stream { numbers: Numbers, first: u32 }

fn stream_of(p: Place, i: u32) -> Stream {
  var words = vec2u();
  if (INPUTS <= 4u || i < 4u) {
    words = select(select(hashes[0], hashes[1], i == 1u), select(hashes[2], hashes[3], i == 3u), i > 1u);
  } else {
    words = hash_of(p.rec, i);
  }
  let lo = flat.x + p.vec8 * 8u;
  let hi = flat.y + select(0u, 1u, lo < flat.x);
  return Stream(numbers(hi >> 2u, words, seed), (flat.x >> 2u) | (flat.y << 30u));
}

// The random words of a vec8 of the block.
fn draw_from(s: Stream, vec8: u32) -> Draw {
  let c = draw_pair(s.numbers, s.first + 2u * vec8);
  return Draw(vec4u(c.x.x, c.y.x, c.z.x, c.w.x), vec4u(c.x.y, c.y.y, c.z.y, c.w.y));
}
