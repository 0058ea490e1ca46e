// Which elements of a delta a random drop leaves. Plain: each goes with the same probability. With RANKED 1 (DELLA,
// arXiv 2406.11617) the probability falls with the rank of its magnitude in its row, from the smallest to the largest.
// Words a model: drop threshold (u32), factor; with RANKED 1: threshold of rank 0 (f32), what a rank takes off it
// (f32), factor. After the models' words, with RANKED 1: elements of a row.
// Drawing costs more than all else. With MASKS 1, dare_norms leaves what it drew to dare, which does not draw then: a
// word for each row of 32 elements and model, bit 8 k + e for element e of its vec8 k. They are the words of lines of
// 32 elements (see lines.wgsl), so the coefficients above are preceded by one more word.
// With GIVEN 1 the processor has drawn (native/host/draw.h): such words of all blocks of the tile are in the table.
#include "lines.wgsl"
#include "ranks.wgsl"

override RANKED: u32 = 0u;
override MASKS: u32 = 0u;
override GIVEN: u32 = 0u;

// What an invocation looks up once for an input: where its numbers, the base's and its random words come from.
struct Drop { input: u32, base: u32, source: u32, stream: Stream, threshold: vec4u }

fn drop_words() -> u32 { return select(2u, 3u, RANKED == 1u); }

// The first coefficient of input `i`, and the first one after those of the drop.
fn drop_at(i: u32) -> u32 { return MASKS + drop_words() * (i - 1u); }
fn drop_end() -> u32 { return drop_at(INPUTS) + RANKED; }

fn factor(p: Place, i: u32) -> f32 { return coef(p, drop_at(i) + drop_words() - 1u); }

fn drop_of(p: Place, i: u32) -> Drop {
  return Drop(i, source(p, 0u), source(p, i), stream_of(p, i), vec4u(coef_bits(p, drop_at(i))));
}

// Bits of the elements of a vec8 that a plain drop leaves.
fn kept(p: Place, drop: Drop) -> u32 {
  let random = draw_from(drop.stream, p.vec8);
  return bits_of(random.a >= drop.threshold) | (bits_of(random.b >= drop.threshold) << 4u);
}

// What the processor drew of 32 elements: `row` counts from the start of the block.
fn given(p: Place, i: u32, row: u32) -> u32 {
  return table[table[TABLE_GIVEN] + (p.block * (BLOCK / 32u) + row) * (INPUTS - 1u) + i - 1u];
}

// Of a delta in a vec8, what the bits say.
fn left(d: Vec8, bits: u32) -> Vec8 {
  return Vec8(select(vec4f(0.0), d.a, (vec4u(bits) & vec4u(1u, 2u, 4u, 8u)) != vec4u(0u)),
               select(vec4f(0.0), d.b, (vec4u(bits) & vec4u(16u, 32u, 64u, 128u)) != vec4u(0u)));
}
