// Drops by rank: an element stays if its random word is not below a limit, which falls with the rank of its magnitude
// in its row (of equal ones those before it rank lower). A rank itself is seldom needed: some elements split the row,
// and where their ranks are known, an element that is not before one of them stays if its word is not below the limit
// of that one, and an element before one goes if its word is. The first splits are guesses. What they leave open splits
// the row again, some elements at a time, until all is known. Zeros stay or go alike.

const LINES = 64u;        // words of 32 elements a block; bit 8 k + e is element e of vec8 k
const LINE_VEC8S = 4u;
override OWN_LINES: u32 = LINES / WORKGROUP; // of an invocation, which follow each other
override DRAWN: u32 = LINES * (INPUTS - 1u);
const SPLITS = 16u;       // at a time
const SAMPLE = 8u;        // vec8s of a row
const LONG = 512u;        // in shorter rows counting everything costs less
const NONE = 0x7fffffffu; // above all keys
// Where magnitudes that are distributed normally split into equal parts, in units of their mean.
const GUESS_S = vec4f(0.0925, 0.1855, 0.2795, 0.3751);
const GUESS_T = vec4f(0.473, 0.5738, 0.6785, 0.7882);
const GUESS_U = vec4f(0.9043, 1.0287, 1.1642, 1.3149);
const GUESS_V = vec4f(1.4875, 1.6941, 1.9611, 2.3681);

struct Ranks { a: vec4u, b: vec4u }

var<workgroup> drawn: array<atomic<u32>, DRAWN>; // what stays, of every model
var<workgroup> unsure: array<u32, LINES>;        // what is open
// Elements that split the row: their keys and places. Of what ranks lower there are three counts by turns: while one is
// made another one may still be read, and the third is cleared.
var<workgroup> split_keys: array<i32, SPLITS>;
var<workgroup> split_places: array<i32, SPLITS>;
var<workgroup> split_ranks: array<atomic<u32>, 3u * SPLITS>;
var<workgroup> asking: atomic<u32>; // how many elements are open
var<private> turn: u32; // where the count at hand starts

fn next(turn: u32) -> u32 { return select(turn + SPLITS, 0u, turn == 2u * SPLITS); }

// Before the tile's first element `vec8` is negative, and offsets wrap around.
fn keys_at(drop: Drop, vec8: i32) -> Ranks {
  let base = load_from(drop.base, u32(vec8));
  let x = load_from(drop.source, u32(vec8));
  return Ranks(magnitude(delta(x.a, base.a)), magnitude(delta(x.b, base.b)));
}

// Where in its row element 0 of the vec8 is. 2^32 mod row comes from 2^32 - row, which fits a word.
fn row_position(p: Place, row: u32) -> u32 {
  let lo = table[p.rec + RECORD_FLAT] % row;
  let hi = table[p.rec + RECORD_FLAT + 1u] % row;
  let wrap = (0u - row) % row;
  // The flat index is below 2^36 and a row below 2^27, so that nothing here overflows.
  return (lo + ((hi * wrap) % row) + (p.vec8 * 8u) % row) % row;
}

fn ones(mask: vec4<bool>) -> vec4u { return select(vec4u(0u), vec4u(1u), mask); }

// How many of eight keys are below each key of the vec8.
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
  return Ranks(select(vec4u(NONE), keys.a, a), select(vec4u(NONE), keys.b, b));
}

// How many elements of the row are smaller than each of the vec8 (of equal ones those before it), by counting all.
fn ranks(p: Place, drop: Drop, mine: Ranks, row: u32) -> Ranks {
  let lanes = vec4u(0u, 1u, 2u, 3u);
  let own = i32(p.vec8);
  let position = row_position(p, row);
  var result = Ranks();
  var done = 0u;
  // A vec8 has parts of several rows where rows are short or end inside it.
  while (done < p.live) {
    let at = (position + done) % row;
    let here = min(p.live - done, row - at);
    let begin = i32(p.vec8 * 8u + done) - i32(at);
    let end = begin + i32(row);
    var a = vec4u(0u);
    var b = vec4u(0u);
    for (var vec8 = begin >> 3u; vec8 * 8 < end; vec8++) {
      var keys = keys_at(drop, vec8);
      if (vec8 * 8 < begin || vec8 * 8 + 8 > end) { keys = within(keys, begin - vec8 * 8, end - vec8 * 8); }
      // Before this vec8, equal ones count.
      let equal = vec4u(select(0u, 1u, vec8 < own));
      a += below(keys, mine.a + equal);
      b += below(keys, mine.b + equal);
    }
    // In this vec8, those of the same row before the lane do.
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

// The limit of random words below which an element of this rank goes, which never rises with the rank. A row has fewer
// than 2^31 elements.
fn limit(p: Place, i: u32, rank: vec4u) -> vec4f {
  let j = drop_at(i);
  return clamp(vec4f(coef(p, j)) - prod4(vec4f(vec4i(rank)), coef(p, j + 1u)), vec4f(0.0), vec4f(4294967040.0));
}

// Words are compared as integers with a sign, which takes a CPU one instruction.
fn signed(word: vec4u) -> vec4i { return vec4i(word ^ vec4u(0x80000000u)); }

// The whole part of a limit as such a word.
fn bound(limit: vec4f) -> vec4i {
  let high = floor(limit * vec4f(0x1p-16));
  let low = floor(limit - high * vec4f(0x1p16));
  // A whole number is in the low bits of its sum with 2^23. Software drivers make an integer of a float lane by lane.
  let words = bitcast<vec4u>(high + vec4f(0x1p23)) << vec4u(16u);
  return signed(words | (bitcast<vec4u>(low + vec4f(0x1p23)) & vec4u(0xffffu)));
}

fn bits_of(mask: vec4<bool>) -> u32 {
  let bits = select(vec4u(0u), vec4u(1u, 2u, 4u, 8u), mask);
  return (bits.x | bits.y) | (bits.z | bits.w);
}

// Draws for input `i`: afterwards every invocation finds the words of all lines in `drawn`.
fn draw_by_rank(wid: vec3u, nwg: vec3u, lid: u32, i: u32) {
  let start = place(wid, nwg, 0u);
  if (start.live == 0u) { return; }
  let drop = drop_of(start, i);
  let row = coef_word(start, drop_end() - 1u);
  let same = coef_word(start, drop_at(i) + 1u) == 0u; // limit, whatever the rank
  if (row < LONG || same) {
    for (var k = 0u; k < rolled(OWN_LINES * LINE_VEC8S); k++) {
      let p = along(start, OWN_LINES * LINE_VEC8S * lid + k);
      if (p.live == 0u) { break; }
      let random = draw_from(drop.stream, p.vec8);
      var rank = Ranks();
      if (!same) { rank = ranks(p, drop, keys_at(drop, i32(p.vec8)), row); }
      let bits = bits_of(signed(random.a) >= bound(limit(p, i, rank.a))) |
                 (bits_of(signed(random.b) >= bound(limit(p, i, rank.b))) << 4u);
      atomicOr(&drawn[line_of(start, p.vec8, i)], bits << (8u * (p.vec8 % LINE_VEC8S)));
    }
  } else {
    let end = i32(min(table[start.rec + RECORD_ELEMENTS], 8u * start.vec8 + BLOCK));
    for (var begin = i32(8u * start.vec8) - i32(row_position(start, row)); begin < end; begin += i32(row)) {
      draw_row(start, drop, lid, begin, begin + i32(row));
    }
  }
  workgroupBarrier();
}

// Where the word of a vec8 is in `drawn`.
fn line_of(start: Place, vec8: u32, i: u32) -> u32 { return LINES * (i - 1u) + (vec8 - start.vec8) / LINE_VEC8S; }

// Keys of a vec8, but NONE outside the row.
fn row_keys(drop: Drop, vec8: i32, begin: i32, end: i32) -> Ranks {
  let keys = keys_at(drop, vec8);
  if (vec8 * 8 >= begin && vec8 * 8 + 8 <= end) { return keys; }
  return within(keys, begin - vec8 * 8, end - vec8 * 8);
}

fn present(keys: vec4u) -> vec4<bool> { return (keys > vec4u(1u)) & (keys != vec4u(NONE)); }

// Of four keys the sum of the magnitudes, and how many there are; neither zeros nor Inf.
fn measure(keys: vec4u) -> vec2f {
  let counted = present(keys) & (keys <= vec4u(0x7f800000u));
  let one = vec4f(1.0);
  return vec2f(dot(select(vec4f(0.0), bitcast<vec4f>(keys - vec4u(1u)), counted), one),
               dot(select(vec4f(0.0), one, counted), one));
}

struct Four { keys: vec4i, places: vec4i }

// A guess at four splits, before all elements.
fn guess4(mean: f32, parts: vec4f, begin: i32) -> Four {
  let bits = bitcast<vec4u>(mean * parts) & vec4u(0x7fffffffu);
  return Four(vec4i(min(bits, vec4u(0x7f800000u))) + vec4i(1), vec4i(begin));
}

fn four(t: u32) -> Four {
  return Four(vec4i(split_keys[t], split_keys[t + 1u], split_keys[t + 2u], split_keys[t + 3u]),
              vec4i(split_places[t], split_places[t + 1u], split_places[t + 2u], split_places[t + 3u]));
}

// The limits of four splits, as words.
fn limits(p: Place, i: u32, t: u32) -> vec4i {
  let at = turn + t;
  return bound(limit(p, i, vec4u(atomicLoad(&split_ranks[at]), atomicLoad(&split_ranks[at + 1u]),
                                 atomicLoad(&split_ranks[at + 2u]), atomicLoad(&split_ranks[at + 3u]))));
}

fn less(a: vec4i, b: vec4i) -> vec4i { return select(vec4i(0), vec4i(1), a < b); }

// How many of eight keys are below each of four.
fn smaller(keys: Ranks, than: vec4i) -> vec4i {
  let a = vec4i(keys.a);
  let b = vec4i(keys.b);
  let x = less(vec4i(a.x), than) + less(vec4i(a.y), than);
  let y = less(vec4i(a.z), than) + less(vec4i(a.w), than);
  let z = less(vec4i(b.x), than) + less(vec4i(b.y), than);
  let w = less(vec4i(b.z), than) + less(vec4i(b.w), than);
  return (x + y) + (z + w);
}

// Elements of vec8s before that of a split precede it if they are equal.
fn than(s: Four, vec8: i32) -> vec4i { return s.keys + less(vec4i(vec8), s.places >> vec4u(3u)); }

fn add_ranks(t: u32, more: vec4i) {
  for (var j = 0u; j < 4u; j++) { atomicAdd(&split_ranks[turn + t + j], u32(more[j])); }
}

// How many of four splits each of four elements is before, and has a word below their limits.
fn both(keys: vec4i, words: vec4i, than: vec4i, limits: vec4i) -> vec4i {
  return ((less(keys, vec4i(than.x)) + less(words, vec4i(limits.x))) +
          (less(keys, vec4i(than.y)) + less(words, vec4i(limits.y)))) +
         ((less(keys, vec4i(than.z)) + less(words, vec4i(limits.z))) +
          (less(keys, vec4i(than.w)) + less(words, vec4i(limits.w))));
}

// How many of four keys are equal, among the first `before`.
fn equal4(keys: vec4u, key: i32, before: i32) -> u32 {
  return dot(ones((vec4i(keys) == vec4i(key)) & (vec4i(0, 1, 2, 3) < vec4i(before))), vec4u(1u));
}

struct Element { key: i32, place: i32, word: i32 }

fn one_of(drop: Drop, place: i32) -> Element {
  let keys = keys_at(drop, place >> 3u);
  let random = draw_from(drop.stream, u32(place >> 3u));
  let far = (place & 4) != 0;
  let word = select(random.a, random.b, far)[place & 3];
  return Element(i32(select(keys.a, keys.b, far)[place & 3]), place, signed(vec4u(word)).x);
}

// What four splits say of an element: whether it stays, whether it goes.
fn verdict(s: Four, limits: vec4i, e: Element) -> vec2<bool> {
  let before = vec4i(e.key) < than(s, e.place >> 3u);
  let low = vec4i(e.word) < limits;
  return vec2(any(!before & !low), any(before & low));
}

// The same for the row of elements `begin` to `end`.
fn draw_row(start: Place, drop: Drop, lid: u32, begin: i32, end: i32) {
  let first = begin >> 3u;
  let last = (end + 7) >> 3u;
  let origin = i32(start.vec8);
  let head = max(first, origin);
  let till = min(min(last, origin + i32(BLOCK / 8u)), i32((start.elements + 7u) / 8u));
  let head_line = u32(head - origin) / LINE_VEC8S;
  let till_line = (u32(till - origin) + LINE_VEC8S - 1u) / LINE_VEC8S;
  let drawn_at = LINES * (drop.input - 1u);
  // Random words below the first limit may go, words below the second one do.
  let ends = bound(limit(start, drop.input, vec4u(0u, u32(end - begin), 0u, 0u)));

  // A few elements tell how large the row's are. Whatever they tell, the result is the same.
  var sample = vec2f(0.0);
  for (var o = 0; o < i32(rolled(SAMPLE)); o++) {
    let keys = row_keys(drop, first + o * ((last - first) / i32(SAMPLE)), begin, end);
    sample += measure(keys.a) + measure(keys.b);
  }
  let mean = sample.x / max(sample.y, 1.0);
  var s = guess4(mean, GUESS_S, begin);
  var t = guess4(mean, GUESS_T, begin);
  var u = guess4(mean, GUESS_U, begin);
  var v = guess4(mean, GUESS_V, begin);

  var waiting = 0u;  // open elements of the invocation's lines
  var all_open = 0u; // of all lines
  for (var guess = true; ; guess = false) {
    if (!guess) {
      s = four(0u);
      t = four(4u);
      u = four(8u);
      v = four(12u);
    }
    var sum_s = vec4i(0);
    var sum_t = vec4i(0);
    var sum_u = vec4i(0);
    var sum_v = vec4i(0);
    for (var o = first + i32(lid); o < last; o += i32(WORKGROUP)) {
      let keys = row_keys(drop, o, begin, end);
      sum_s += smaller(keys, than(s, o));
      sum_t += smaller(keys, than(t, o));
      sum_u += smaller(keys, than(u, o));
      sum_v += smaller(keys, than(v, o));
    }
    add_ranks(0u, sum_s);
    add_ranks(4u, sum_t);
    add_ranks(8u, sum_u);
    add_ranks(12u, sum_v);
    let cleared = next(turn);
    for (var w = lid; w < SPLITS; w += WORKGROUP) { atomicStore(&split_ranks[cleared + w], 0u); }
    if (lid == 0u) { atomicStore(&asking, 0u); }
    workgroupBarrier();
    let limit_s = limits(start, drop.input, 0u);
    let limit_t = limits(start, drop.input, 4u);
    let limit_u = limits(start, drop.input, 8u);
    let limit_v = limits(start, drop.input, 12u);
    if (guess) {
      for (var line = head_line + lid; line < till_line; line += WORKGROUP) {
        var stays = 0u;
        var open = 0u;
        for (var k = 0u; k < rolled(LINE_VEC8S); k++) {
          let vec8 = origin + i32(LINE_VEC8S * line + k);
          if (vec8 < head || vec8 >= till) { continue; }
          let keys = row_keys(drop, vec8, begin, end);
          let random = draw_from(drop.stream, u32(vec8));
          for (var h = 0u; h < 2u; h++) {
            let some = select(keys.b, keys.a, h == 0u);
            let key = vec4i(some);
            let word = signed(select(random.b, random.a, h == 0u));
            // Splits that an element is before are the last ones, those whose limits its word is below the first
            // ones. Where there are more than splits, an element is in both, where there are fewer, in neither.
            let sides = ((both(key, word, s.keys, limit_s) + both(key, word, t.keys, limit_t)) +
                         (both(key, word, u.keys, limit_u) + both(key, word, v.keys, limit_v))) +
                        (less(word, vec4i(ends.x)) + less(word, vec4i(ends.y)));
            let counted = present(some);
            stays |= bits_of(counted & (sides < vec4i(i32(SPLITS) + 1))) << (8u * k + 4u * h);
            open |= bits_of(counted & (sides == vec4i(i32(SPLITS) + 1))) << (8u * k + 4u * h);
          }
        }
        atomicOr(&drawn[drawn_at + line], stays);
        unsure[line] = open;
        waiting += countOneBits(open);
      }
    } else {
      // Of every element that was asked the rank is known.
      for (var w = lid; w < min(all_open, SPLITS); w += WORKGROUP) {
        let e = one_of(drop, split_places[w]);
        // What is equal and before it in its own vec8 has not been counted.
        let own = row_keys(drop, e.place >> 3u, begin, end);
        let more = equal4(own.a, e.key, e.place & 7) + equal4(own.b, e.key, (e.place & 7) - 4);
        let bounds = bound(limit(start, drop.input, vec4u(atomicLoad(&split_ranks[turn + w]) + more)));
        let line = u32(e.place - 8 * origin) / 32u;
        if (e.word >= bounds.x) { atomicOr(&drawn[drawn_at + line], 1u << (u32(e.place) & 31u)); }
      }
      // What was asked splits the row for the others.
      if (all_open > SPLITS) {
        waiting = 0u;
        for (var line = head_line + lid; line < till_line; line += WORKGROUP) {
          var stays = 0u;
          var open = unsure[line];
          for (var left = open; left != 0u; left &= left - 1u) {
            let e = one_of(drop, 8 * (origin + i32(LINE_VEC8S * line)) + i32(countTrailingZeros(left)));
            let says = (verdict(s, limit_s, e) | verdict(t, limit_t, e)) |
                       (verdict(u, limit_u, e) | verdict(v, limit_v, e));
            let bit = left & (0u - left);
            if (says.x) { stays |= bit; }
            if (any(says)) { open ^= bit; }
          }
          atomicOr(&drawn[drawn_at + line], stays);
          unsure[line] = open;
          waiting += countOneBits(open);
        }
      }
    }
    turn = cleared;
    if (!guess) {
      if (all_open <= SPLITS) { break; }
      workgroupBarrier();
    }
    if (waiting != 0u) {
      var w = atomicAdd(&asking, waiting);
      for (var line = head_line + lid; line < till_line && w < SPLITS; line += WORKGROUP) {
        var left = unsure[line];
        for (; left != 0u && w < SPLITS; w++) {
          let e = one_of(drop, 8 * (origin + i32(LINE_VEC8S * line)) + i32(countTrailingZeros(left)));
          split_keys[w] = e.key;
          split_places[w] = e.place;
          left &= left - 1u;
          waiting -= 1u;
        }
        unsure[line] = left;
      }
    }
    all_open = workgroupUniformLoad(&asking);
    if (all_open == 0u) { break; }
  }
}
