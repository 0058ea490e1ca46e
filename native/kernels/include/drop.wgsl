// Which elements of a delta a random drop leaves. Plain: each goes with the same probability. With RANKED 1 (DELLA,
// arXiv 2406.11617) the probability falls with the rank of its magnitude in its row, from the smallest to the largest.
// Words a model: drop threshold (u32), factor; with RANKED 1: threshold of rank 0 (f32), what a rank takes off it (f32),
// factor. After the models' words, with RANKED 1: elements of a row.

override RANKED: u32 = 0u;

// What an invocation looks up once for an input: where its numbers, the base's and its random words come from.
struct Drop { input: u32, base: u32, source: u32, stream: Stream, threshold: vec4u }
struct Kept { a: vec4<bool>, b: vec4<bool> }
struct Ranks { a: vec4u, b: vec4u }

fn drop_words() -> u32 { return select(2u, 3u, RANKED == 1u); }

// First coefficient after those of the drop.
fn drop_end() -> u32 { return drop_words() * (INPUTS - 1u) + RANKED; }

fn factor(p: Place, i: u32) -> f32 { return coef(p, drop_words() * (i - 1u) + drop_words() - 1u); }

fn drop_of(p: Place, i: u32) -> Drop {
  return Drop(i, source(p, 0u), source(p, i), stream_of(p, i), vec4u(coef_bits(p, drop_words() * (i - 1u))));
}

// Before the tile's first element `octet` is negative, and offsets wrap around.
fn keys_at(drop: Drop, octet: i32) -> Ranks {
  let base = load_from(drop.base, u32(octet));
  let x = load_from(drop.source, u32(octet));
  return Ranks(magnitude(delta(x.a, base.a)), magnitude(delta(x.b, base.b)));
}

// Where in its row element 0 of the octet is. 2^32 mod row comes from 2^32 - row, which fits a word.
fn row_position(p: Place, row: u32) -> u32 {
  let lo = table[p.rec + 2u] % row;
  let hi = table[p.rec + 3u] % row;
  let wrap = (0u - row) % row;
  // The flat index is below 2^36 and a row below 2^27, so that nothing here overflows.
  return (lo + ((hi * wrap) % row) + (p.octet * 8u) % row) % row;
}

fn ones(mask: vec4<bool>) -> vec4u { return select(vec4u(0u), vec4u(1u), mask); }

// How many of eight keys are below each key of the octet.
fn below(keys: Ranks, than: vec4u) -> vec4u {
  let x = ones(vec4u(keys.a.x) < than) + ones(vec4u(keys.a.y) < than);
  let y = ones(vec4u(keys.a.z) < than) + ones(vec4u(keys.a.w) < than);
  let z = ones(vec4u(keys.b.x) < than) + ones(vec4u(keys.b.y) < than);
  let w = ones(vec4u(keys.b.z) < than) + ones(vec4u(keys.b.w) < than);
  return (x + y) + (z + w);
}

// Keys of lanes outside [first, last) are made larger than any other.
fn within(keys: Ranks, first: i32, last: i32) -> Ranks {
  let lanes = vec4i(0, 1, 2, 3);
  let a = (lanes >= vec4i(first)) & (lanes < vec4i(last));
  let b = (lanes + 4 >= vec4i(first)) & (lanes + 4 < vec4i(last));
  return Ranks(select(vec4u(0xffffffffu), keys.a, a), select(vec4u(0xffffffffu), keys.b, b));
}

// How many elements of the row are smaller than each of the octet (of equal ones those before it), by counting.
fn ranks(p: Place, drop: Drop, row: u32) -> Ranks {
  let lanes = vec4u(0u, 1u, 2u, 3u);
  let own = i32(p.octet);
  let mine = keys_at(drop, own);
  let position = row_position(p, row);
  var result = Ranks();
  var done = 0u;
  // An octet has parts of several rows where rows are short or end inside it.
  while (done < p.live) {
    let at = (position + done) % row;
    let here = min(p.live - done, row - at);
    let begin = i32(p.octet * 8u + done) - i32(at);
    let end = begin + i32(row);
    var a = vec4u(0u);
    var b = vec4u(0u);
    for (var octet = begin >> 3u; octet * 8 < end; octet++) {
      var keys = keys_at(drop, octet);
      if (octet * 8 < begin || octet * 8 + 8 > end) { keys = within(keys, begin - octet * 8, end - octet * 8); }
      // Before this octet, equal ones count.
      let equal = vec4u(select(0u, 1u, octet < own));
      a += below(keys, mine.a + equal);
      b += below(keys, mine.b + equal);
    }
    // In this octet, those of the same row before the lane do.
    for (var e = done; e + 1u < done + here; e++) {
      let key = vec4u(dot(select(mine.a, mine.b, e >= 4u), ones(lanes == vec4u(e & 3u))));
      a += ones((key == mine.a) & (vec4u(e) < lanes));
      b += ones((key == mine.b) & (vec4u(e) < lanes + 4u));
    }
    result.a = select(result.a, a, (lanes >= vec4u(done)) & (lanes < vec4u(done + here)));
    result.b = select(result.b, b, (lanes + 4u >= vec4u(done)) & (lanes + 4u < vec4u(done + here)));
    done += here;
  }
  return result;
}

// The threshold of random words below which an element of this rank goes.
fn limit(p: Place, i: u32, rank: vec4u) -> vec4u {
  let j = 3u * (i - 1u);
  return vec4u(max(vec4f(0.0), vec4f(coef(p, j)) - prod4(vec4f(rank), coef(p, j + 1u))));
}

fn kept(p: Place, drop: Drop) -> Kept {
  let random = draw_from(drop.stream, p.octet);
  if (RANKED == 0u) { return Kept(random.a >= drop.threshold, random.b >= drop.threshold); }
  let rank = ranks(p, drop, coef_bits(p, 3u * (INPUTS - 1u)));
  return Kept(random.a >= limit(p, drop.input, rank.a), random.b >= limit(p, drop.input, rank.b));
}
