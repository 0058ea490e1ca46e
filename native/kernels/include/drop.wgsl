// Which elements of a delta a random drop leaves. Plain: each goes with the same probability. With RANKED 1 (DELLA,
// arXiv 2406.11617) the probability falls with the rank of its magnitude in its row, from the smallest to the largest.
// Words a model: drop threshold (u32), factor; with RANKED 1: threshold of rank 0 (f32), what a rank takes off it (f32),
// factor. After the models' words, with RANKED 1: elements of a row.
// Workgroups have 64 invocations; each has four octets of the block that follow each other.
#include "ranks.wgsl"

override RANKED: u32 = 0u;

// What an invocation looks up once for an input: where its numbers, the base's and its random words come from.
struct Drop { input: u32, base: u32, source: u32, stream: Stream, threshold: vec4u }
struct Kept { a: vec4<bool>, b: vec4<bool> }

fn drop_words() -> u32 { return select(2u, 3u, RANKED == 1u); }

// First coefficient after those of the drop.
fn drop_end() -> u32 { return drop_words() * (INPUTS - 1u) + RANKED; }

fn factor(p: Place, i: u32) -> f32 { return coef(p, drop_words() * (i - 1u) + drop_words() - 1u); }

fn drop_of(p: Place, i: u32) -> Drop {
  return Drop(i, source(p, 0u), source(p, i), stream_of(p, i), vec4u(coef_bits(p, drop_words() * (i - 1u))));
}

// Bit 8 k + e: whether element e of octet k of the invocation stays, by rank. All invocations have to call it.
fn ranked_drop(wid: vec3u, nwg: vec3u, lid: u32, i: u32) -> u32 {
  if (RANKED == 0u) { return 0u; }
  return kept_by_rank(wid, nwg, lid, i);
}

// Of octet k of the invocation, which is `p`.
fn kept(p: Place, drop: Drop, ranked: u32, k: u32) -> Kept {
  if (RANKED == 1u) {
    let bits = vec4u(ranked >> (8u * k));
    return Kept((bits & vec4u(1u, 2u, 4u, 8u)) != vec4u(0u), (bits & vec4u(16u, 32u, 64u, 128u)) != vec4u(0u));
  }
  let random = draw_from(drop.stream, p.octet);
  return Kept(random.a >= drop.threshold, random.b >= drop.threshold);
}
