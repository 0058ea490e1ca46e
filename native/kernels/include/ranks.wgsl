// Drops by rank: an element stays if its random word is not below a limit, which falls with the rank of its magnitude in
// its row (of equal ones those before it rank lower). A rank itself is seldom needed. A histogram of the row's keys bounds
// the ranks of each bin, and nearly all random words are above the limit of a bin's first rank or below that of its last
// one. What is left is counted by all, some elements at a time. Zeros stay or go alike.

const WORKERS = 64u;  // invocations; each has OCTETS octets of the block that follow each other
const OCTETS = 4u;
const BINS = 1024u;
const ASKED = 16u;
const LONG = 512u;       // in shorter rows counting everything costs less
const NONE = 0xffffffffu; // above all keys

struct Ranks { a: vec4u, b: vec4u }
// An octet of the invocation.
struct Own { keys: Ranks, random: Draw }

var<workgroup> bins: array<atomic<u32>, BINS>;  // elements a bin
var<workgroup> before: array<u32, BINS + 1u>;   // elements of the bins before this one
var<workgroup> sums: array<u32, WORKERS>;
var<workgroup> lowest: atomic<u32>;
var<workgroup> highest: atomic<u32>;
var<workgroup> present_count: u32;
// Elements whose ranks are counted: how many there are, their keys and places, and the ranks.
var<workgroup> asking: atomic<u32>;
var<workgroup> asked: u32;
var<workgroup> asked_keys: array<u32, ASKED>;
var<workgroup> asked_places: array<i32, ASKED>;
var<workgroup> asked_ranks: array<atomic<u32>, ASKED>;

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
  return Ranks(select(vec4u(NONE), keys.a, a), select(vec4u(NONE), keys.b, b));
}

// How many elements of the row are smaller than each of the octet (of equal ones those before it), by counting all.
fn ranks(p: Place, drop: Drop, mine: Ranks, row: u32) -> Ranks {
  let lanes = vec4u(0u, 1u, 2u, 3u);
  let own = i32(p.octet);
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
  let j = drop_at(i);
  return vec4u(max(vec4f(0.0), vec4f(coef(p, j)) - prod4(vec4f(rank), coef(p, j + 1u))));
}

fn bits_of(mask: vec4<bool>) -> u32 {
  let bits = select(vec4u(0u), vec4u(1u, 2u, 4u, 8u), mask);
  return (bits.x | bits.y) | (bits.z | bits.w);
}

fn kept_by_rank(wid: vec3u, nwg: vec3u, lid: u32, i: u32) -> u32 {
  let start = place(wid, nwg, 0u);
  if (start.live == 0u) { return 0u; }
  let drop = drop_of(start, i);
  let row = coef_word(start, drop_end() - 1u);
  let same = coef_word(start, drop_at(i) + 1u) == 0u; // limit, whatever the rank
  let short = row < LONG || same;
  var own = array<Own, OCTETS>();
  var result = 0u;
  for (var k = 0u; k < rolled(OCTETS); k++) {
    let p = along(start, OCTETS * lid + k);
    if (p.live == 0u) { break; }
    let keys = keys_at(drop, i32(p.octet));
    let random = draw_from(drop.stream, p.octet);
    own[k] = Own(keys, random);
    if (!short) { continue; }
    var rank = Ranks();
    if (!same) { rank = ranks(p, drop, keys, row); }
    let bits = bits_of(random.a >= limit(p, i, rank.a)) | (bits_of(random.b >= limit(p, i, rank.b)) << 4u);
    result |= bits << (8u * k);
  }
  if (short) { return result; }
  let end = i32(min(table[start.rec], 8u * start.octet + 2048u));
  for (var begin = i32(8u * start.octet) - i32(row_position(start, row)); begin < end; begin += i32(row)) {
    result |= kept_of_row(start, drop, &own, lid, begin, begin + i32(row));
  }
  return result;
}

// Keys of an octet, but NONE outside the row.
fn clip(keys: Ranks, octet: i32, begin: i32, end: i32) -> Ranks {
  if (octet * 8 >= begin && octet * 8 + 8 <= end) { return keys; }
  return within(keys, begin - octet * 8, end - octet * 8);
}

fn row_keys(drop: Drop, octet: i32, begin: i32, end: i32) -> Ranks { return clip(keys_at(drop, octet), octet, begin, end); }

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

// The same for the row of elements `begin` to `end`; bits of elements elsewhere are 0.
fn kept_of_row(start: Place, drop: Drop, own: ptr<function, array<Own, OCTETS>>, lid: u32, begin: i32, end: i32) -> u32 {
  workgroupBarrier();
  if (lid == 0u) {
    atomicStore(&lowest, NONE);
    atomicStore(&highest, 0u);
  }
  for (var b = lid; b < BINS; b += WORKERS) { atomicStore(&bins[b], 0u); }
  workgroupBarrier();
  let first = begin >> 3u;
  let last = (end + 7) >> 3u;
  // The bins span what a sample of the row does; the first and the last one take what lies further out.
  let keys = row_keys(drop, first + i32(lid) * ((last - first) / i32(WORKERS)), begin, end);
  let least = min(select(vec4u(NONE), keys.a, present(keys.a)), select(vec4u(NONE), keys.b, present(keys.b)));
  let most = max(select(vec4u(0u), keys.a, present(keys.a)), select(vec4u(0u), keys.b, present(keys.b)));
  atomicMin(&lowest, min(min(least.x, least.y), min(least.z, least.w)));
  atomicMax(&highest, max(max(most.x, most.y), max(most.z, most.w)));
  workgroupBarrier();
  let low = atomicLoad(&lowest);
  let width = 32u - countLeadingZeros(max(atomicLoad(&highest), low) - low);
  let shift = max(width, 10u) - 10u;
  for (var o = first + i32(lid); o < last; o += i32(WORKERS)) {
    let keys = row_keys(drop, o, begin, end);
    count_in_bins(keys.a, low, shift);
    count_in_bins(keys.b, low, shift);
  }
  workgroupBarrier();
  let each = rolled(BINS / WORKERS);
  var total = 0u;
  for (var b = lid * each; b < (lid + 1u) * each; b++) { total += atomicLoad(&bins[b]); }
  sums[lid] = total;
  workgroupBarrier();
  if (lid == 0u) {
    total = 0u;
    for (var w = 0u; w < rolled(WORKERS); w++) {
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
  if (lid == WORKERS - 1u) { before[BINS] = total; }
  workgroupBarrier();
  let zeros = u32(end - begin) - present_count;
  var result = 0u;
  var open = 0u;
  for (var k = 0u; k < rolled(OCTETS); k++) {
    let octet = i32(start.octet + OCTETS * lid + k);
    if (octet < first || octet >= last) { continue; }
    let keys = clip((*own)[k].keys, octet, begin, end);
    let random = (*own)[k].random;
    let near = bounds(start, drop.input, keys.a, random.a, low, shift, zeros);
    let far = bounds(start, drop.input, keys.b, random.b, low, shift, zeros);
    result |= (near.x | (far.x << 4u)) << (8u * k);
    open |= (near.y | (far.y << 4u)) << (8u * k);
  }
  loop {
    workgroupBarrier();
    if (lid == 0u) { atomicStore(&asking, 0u); }
    if (lid < ASKED) { atomicStore(&asked_ranks[lid], 0u); }
    workgroupBarrier();
    let waiting = countOneBits(open);
    var turn = ASKED;
    if (waiting != 0u) { turn = atomicAdd(&asking, waiting); }
    var rest = open;
    for (var t = turn; t < ASKED && rest != 0u; t++) {
      let e = countTrailingZeros(rest);
      let keys = (*own)[e >> 3u].keys;
      asked_keys[t] = select(keys.a, keys.b, (e & 4u) != 0u)[e & 3u];
      asked_places[t] = i32(8u * (start.octet + OCTETS * lid) + e);
      rest &= rest - 1u;
    }
    workgroupBarrier();
    if (lid == 0u) { asked = min(atomicLoad(&asking), ASKED); }
    let count = workgroupUniformLoad(&asked);
    if (count == 0u) { break; }
    var counts = array<u32, ASKED>();
    for (var o = first + i32(lid); o < last; o += i32(WORKERS)) {
      let keys = row_keys(drop, o, begin, end);
      for (var t = 0u; t < count; t++) {
        let key = asked_keys[t];
        let ahead = clamp(asked_places[t] - 8 * o, 0, 8); // elements of the octet before it
        counts[t] += smaller4(keys.a, key, ahead) + smaller4(keys.b, key, ahead - 4);
      }
    }
    for (var t = 0u; t < count; t++) { atomicAdd(&asked_ranks[t], counts[t]); }
    workgroupBarrier();
    for (var t = turn; t < ASKED && open != 0u; t++) {
      let e = countTrailingZeros(open);
      open &= open - 1u;
      let random = (*own)[e >> 3u].random;
      let word = select(random.a, random.b, (e & 4u) != 0u)[e & 3u];
      if (word >= limit(start, drop.input, vec4u(atomicLoad(&asked_ranks[t]))).x) { result |= 1u << e; }
    }
  }
  return result;
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
  let stays = counted & (random >= limit(start, i, first + vec4u(zeros)));
  let may = counted & (random >= limit(start, i, last + vec4u(zeros) - vec4u(1u)));
  return vec2u(bits_of(stays), bits_of(may) & ~bits_of(stays));
}
