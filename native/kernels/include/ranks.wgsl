// Drops by rank: an element stays if its random word is not below a limit, which falls with the rank of its magnitude
// in its row (of equal ones those before it rank lower). A rank itself is seldom needed. A histogram of the row's keys
// bounds the ranks of each bin, and nearly all random words are above the limit of a bin's first rank or below that of
// its last one. What is left is counted by all, some elements at a time. Zeros stay or go alike.

const LINES = 64u;       // words of 32 elements a block; bit 8 k + e is element e of vec8 k
const LINE_VEC8S = 4u;
override OWN_LINES: u32 = LINES / WORKGROUP; // of an invocation, which follow each other
override DRAWN: u32 = LINES * (INPUTS - 1u);
const BINS = 512u;
const ASKED = 16u;
const SAMPLE = 64u;      // vec8s of a row
const LONG = 512u;       // in shorter rows counting everything costs less
const NONE = 0xffffffffu; // above all keys

struct Ranks { a: vec4u, b: vec4u }

var<workgroup> drawn: array<atomic<u32>, DRAWN>; // what stays, of every model
var<workgroup> unsure: array<u32, LINES>;        // where the rank in its bin decides
var<workgroup> bins: array<atomic<u32>, BINS>;   // elements a bin
var<workgroup> before: array<u32, BINS + 1u>;    // elements of the bins before this one
var<workgroup> sums: array<u32, WORKGROUP>;
var<workgroup> lowest: atomic<u32>;
var<workgroup> highest: atomic<u32>;
var<workgroup> present_count: u32;
// Elements whose ranks are counted: how many there are, their keys and places, and the ranks.
var<workgroup> asking: atomic<u32>;
var<workgroup> asked: u32;
var<workgroup> asked_keys: array<u32, ASKED>;
var<workgroup> asked_places: array<i32, ASKED>;
var<workgroup> asked_ranks: array<atomic<u32>, ASKED>;

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

// The limit of random words below which an element of this rank goes. A row has fewer than 2^31 elements.
fn limit(p: Place, i: u32, rank: vec4u) -> vec4f {
  let j = drop_at(i);
  return clamp(vec4f(coef(p, j)) - prod4(vec4f(vec4i(rank)), coef(p, j + 1u)), vec4f(0.0), vec4f(4294967040.0));
}

// Whether a word is not below the whole part of a limit. Half by half, in floats: software drivers make integers of
// floats lane by lane.
fn passes(word: vec4u, bound: vec4f) -> vec4<bool> {
  let high = floor(bound * vec4f(0x1p-16));
  let low = floor(bound - high * vec4f(0x1p16));
  let word_high = vec4f(vec4i(word >> vec4u(16u)));
  let word_low = vec4f(vec4i(word & vec4u(0xffffu)));
  return (word_high > high) | ((word_high == high) & (word_low >= low));
}

fn bits_of(mask: vec4<bool>) -> u32 {
  let bits = select(vec4u(0u), vec4u(1u, 2u, 4u, 8u), mask);
  return (bits.x | bits.y) | (bits.z | bits.w);
}

// Draws for input `i`: afterwards an invocation finds the words of its own lines in `drawn`.
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
      let bits = bits_of(passes(random.a, limit(p, i, rank.a))) |
                 (bits_of(passes(random.b, limit(p, i, rank.b))) << 4u);
      atomicOr(&drawn[line_of(start, p.vec8, i)], bits << (8u * (p.vec8 % LINE_VEC8S)));
    }
    return;
  }
  let end = i32(min(table[start.rec + RECORD_ELEMENTS], 8u * start.vec8 + BLOCK));
  for (var begin = i32(8u * start.vec8) - i32(row_position(start, row)); begin < end; begin += i32(row)) {
    draw_row(start, drop, lid, begin, begin + i32(row));
  }
}

// Where the word of a vec8 is in `drawn`.
fn line_of(start: Place, vec8: u32, i: u32) -> u32 { return LINES * (i - 1u) + (vec8 - start.vec8) / LINE_VEC8S; }

// Keys of a vec8, but NONE outside the row.
fn clip(keys: Ranks, vec8: i32, begin: i32, end: i32) -> Ranks {
  if (vec8 * 8 >= begin && vec8 * 8 + 8 <= end) { return keys; }
  return within(keys, begin - vec8 * 8, end - vec8 * 8);
}

fn row_keys(drop: Drop, vec8: i32, begin: i32, end: i32) -> Ranks {
  return clip(keys_at(drop, vec8), vec8, begin, end);
}

fn present(keys: vec4u) -> vec4<bool> { return (keys > vec4u(1u)) & (keys != vec4u(NONE)); }

fn bins_of(keys: vec4u, low: u32, shift: u32) -> vec4u {
  return min((max(keys, vec4u(low)) - vec4u(low)) >> vec4u(shift), vec4u(BINS - 1u));
}

fn count_in_bins(keys: vec4u, low: u32, shift: u32) {
  let bin = bins_of(keys, low, shift);
  let counted = present(keys);
  if (counted.x) { atomicAdd(&bins[bin.x], 1u); }
  if (counted.y) { atomicAdd(&bins[bin.y], 1u); }
  if (counted.z) { atomicAdd(&bins[bin.z], 1u); }
  if (counted.w) { atomicAdd(&bins[bin.w], 1u); }
}

// The same for the row of elements `begin` to `end`.
fn draw_row(start: Place, drop: Drop, lid: u32, begin: i32, end: i32) {
  workgroupBarrier();
  if (lid == 0u) {
    atomicStore(&lowest, NONE);
    atomicStore(&highest, 0u);
  }
  for (var b = lid; b < BINS; b += WORKGROUP) { atomicStore(&bins[b], 0u); }
  workgroupBarrier();
  let first = begin >> 3u;
  let last = (end + 7) >> 3u;
  // The bins span what a sample of the row does; the first and the last one take what lies further out.
  var least = vec4u(NONE);
  var most = vec4u(0u);
  for (var o = i32(lid); o < i32(SAMPLE); o += i32(WORKGROUP)) {
    let keys = row_keys(drop, first + o * ((last - first) / i32(SAMPLE)), begin, end);
    least = min(least, min(select(vec4u(NONE), keys.a, present(keys.a)), select(vec4u(NONE), keys.b, present(keys.b))));
    most = max(most, max(select(vec4u(0u), keys.a, present(keys.a)), select(vec4u(0u), keys.b, present(keys.b))));
  }
  atomicMin(&lowest, min(min(least.x, least.y), min(least.z, least.w)));
  atomicMax(&highest, max(max(most.x, most.y), max(most.z, most.w)));
  workgroupBarrier();
  let low = atomicLoad(&lowest);
  let width = 32u - countLeadingZeros(max(atomicLoad(&highest), low) - low);
  let shift = max(width, 9u) - 9u;
  for (var o = first + i32(lid); o < last; o += i32(WORKGROUP)) {
    let keys = row_keys(drop, o, begin, end);
    count_in_bins(keys.a, low, shift);
    count_in_bins(keys.b, low, shift);
  }
  workgroupBarrier();
  let each = rolled(BINS / WORKGROUP);
  var total = 0u;
  for (var b = lid * each; b < (lid + 1u) * each; b++) { total += atomicLoad(&bins[b]); }
  sums[lid] = total;
  workgroupBarrier();
  if (lid == 0u) {
    total = 0u;
    for (var w = 0u; w < rolled(WORKGROUP); w++) {
      let next = total + sums[w];
      sums[w] = total;
      total = next;
    }
    present_count = total;
  }
  workgroupBarrier();
  total = sums[lid];
  for (var b = lid * each; b < (lid + 1u) * each; b++) {
    before[b] = total;
    total += atomicLoad(&bins[b]);
  }
  if (lid == WORKGROUP - 1u) { before[BINS] = total; }
  workgroupBarrier();
  let zeros = u32(end - begin) - present_count;
  var waiting = 0u;
  for (var line = lid * OWN_LINES; line < rolled((lid + 1u) * OWN_LINES); line++) {
    var stays = 0u;
    var open = 0u;
    for (var k = 0u; k < rolled(LINE_VEC8S); k++) {
      let vec8 = i32(start.vec8 + LINE_VEC8S * line + k);
      if (vec8 < first || vec8 >= last || 8 * vec8 >= i32(start.elements)) { continue; }
      let keys = row_keys(drop, vec8, begin, end);
      let random = draw_from(drop.stream, u32(vec8));
      let near = bounds(start, drop.input, keys.a, random.a, low, shift, zeros);
      let far = bounds(start, drop.input, keys.b, random.b, low, shift, zeros);
      stays |= (near.x | (far.x << 4u)) << (8u * k);
      open |= (near.y | (far.y << 4u)) << (8u * k);
    }
    atomicOr(&drawn[LINES * (drop.input - 1u) + line], stays);
    unsure[line] = open;
    waiting += countOneBits(open);
  }
  loop {
    workgroupBarrier();
    if (lid == 0u) { atomicStore(&asking, 0u); }
    for (var t = lid; t < ASKED; t += WORKGROUP) { atomicStore(&asked_ranks[t], 0u); }
    workgroupBarrier();
    if (waiting != 0u) {
      var t = atomicAdd(&asking, waiting);
      for (var line = lid * OWN_LINES; line < (lid + 1u) * OWN_LINES && t < ASKED; line++) {
        var open = unsure[line];
        for (; open != 0u && t < ASKED; t++) {
          let vec8 = start.vec8 + LINE_VEC8S * line + countTrailingZeros(open) / 8u;
          let e = countTrailingZeros(open) & 7u;
          let keys = keys_at(drop, i32(vec8));
          asked_keys[t] = select(keys.a, keys.b, e >= 4u)[e & 3u];
          asked_places[t] = i32(8u * vec8 + e);
          open &= open - 1u;
          waiting -= 1u;
        }
        unsure[line] = open;
      }
    }
    workgroupBarrier();
    if (lid == 0u) { asked = min(atomicLoad(&asking), ASKED); }
    let count = workgroupUniformLoad(&asked);
    if (count == 0u) { break; }
    for (var t = 0u; t < count; t += 4u) {
      let key = vec4u(asked_keys[t], asked_keys[t + 1u], asked_keys[t + 2u], asked_keys[t + 3u]);
      let at = vec4i(asked_places[t], asked_places[t + 1u], asked_places[t + 2u], asked_places[t + 3u]);
      var ranks = vec4u(0u);
      for (var o = first + i32(lid); o < last; o += i32(WORKGROUP)) {
        let keys = row_keys(drop, o, begin, end);
        let ahead = clamp(at - 8 * o, vec4i(0), vec4i(8)); // elements of the vec8 before each
        ranks += vec4u(smaller(keys, key.x, ahead.x), smaller(keys, key.y, ahead.y),
                       smaller(keys, key.z, ahead.z), smaller(keys, key.w, ahead.w));
      }
      for (var j = 0u; j < 4u; j++) { atomicAdd(&asked_ranks[t + j], ranks[j]); }
    }
    workgroupBarrier();
    for (var t = lid; t < count; t += WORKGROUP) {
      let element = u32(asked_places[t]);
      let random = draw_from(drop.stream, element / 8u);
      let word = select(random.a, random.b, (element & 4u) != 0u)[element & 3u];
      if (passes(vec4u(word), limit(start, drop.input, vec4u(atomicLoad(&asked_ranks[t])))).x) {
        atomicOr(&drawn[line_of(start, element / 8u, drop.input)], 1u << (element % 32u));
      }
    }
  }
}

// How many of eight keys are smaller, or equal and among the first `before`.
fn smaller(keys: Ranks, key: u32, before: i32) -> u32 {
  return smaller4(keys.a, key, before) + smaller4(keys.b, key, before - 4);
}

// How many of four keys are smaller, or equal and among the first `before`.
fn smaller4(keys: vec4u, key: u32, before: i32) -> u32 {
  let than = select(vec4u(key), vec4u(key + 1u), vec4i(0, 1, 2, 3) < vec4i(before));
  return dot(ones(keys < than), vec4u(1u));
}

// Bits of four elements: those that stay whatever their rank in their bin, and those where that decides.
fn bounds(start: Place, i: u32, keys: vec4u, random: vec4u, low: u32, shift: u32, zeros: u32) -> vec2u {
  let bin = bins_of(keys, low, shift);
  let first = vec4u(before[bin.x], before[bin.y], before[bin.z], before[bin.w]);
  let last = vec4u(before[bin.x + 1u], before[bin.y + 1u], before[bin.z + 1u], before[bin.w + 1u]);
  let counted = present(keys);
  let stays = counted & passes(random, limit(start, i, first + vec4u(zeros)));
  let may = counted & passes(random, limit(start, i, last + vec4u(zeros) - vec4u(1u)));
  return vec2u(bits_of(stays), bits_of(may) & ~bits_of(stays));
}
