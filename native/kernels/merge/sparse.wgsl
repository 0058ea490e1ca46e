// Zeros in place of the elements of least score in each group of neighbours of a row, of equal ones the first. A score
// is
// |x|, or with WEIGHTED 1 |x| times the norm of its column. A group is a whole row, or a few elements that fill rows.
// Inputs: x; with WEIGHTED 1 the norms (F32, whole). Coefficients: elements of a group, how many of them go, columns.
//
// In short groups every invocation counts what is below its elements; in a long one (a row) the workgroup finds the
// last key that goes by histograms of its digits.
#include "tile.wgsl"
#include "delta.wgsl"
#include "store.wgsl"

override WEIGHTED: u32 = 0u;
override WEIGHT: u32 = DTYPE_MIXED; // code of the type of x; mixed: the inputs'
override LONG: u32 = 2u;    // 1: groups have more than SHORT elements, 0: not; 2: either

const WORKERS = 64u;        // invocations; each has VEC8S vec8s of the block
const VEC8S = 4u;
const SHORT = 256u;
const BINS = 256u;
const NONE = 0xffffffffu;   // above all keys
const TRIES = 3u;           // candidates for a place a round: two bits

var<workgroup> bins: array<atomic<u32>, BINS>;
var<workgroup> sums: array<u32, WORKERS>;
// What one invocation has found for all: a digit, how many of the elements with it go, how many there are.
var<workgroup> found: vec3u;

struct Keys { a: vec4u, b: vec4u }

fn values(p: Place, vec8: i32) -> Vec8 {
  let offset = source(p, 0u);
  if (WEIGHT == DTYPE_MIXED) { return load_from(offset, u32(vec8)); }
  let bits = load_bits(source_at(offset), WEIGHT, u32(vec8));
  return Vec8(bitcast<vec4f>(bits.a), bitcast<vec4f>(bits.b));
}

// Norms of four columns; lanes outside the row are not looked at.
fn norms(p: Place, column: i32, columns: u32) -> vec4f {
  let c = vec4u(clamp(vec4i(column) + vec4i(0, 1, 2, 3), vec4i(0), vec4i(i32(columns) - 1)));
  let offset = source_at(source(p, 1u));
  return bitcast<vec4f>(vec4u(inputs[offset + c.x / 4u][c.x % 4u], inputs[offset + c.y / 4u][c.y % 4u],
                              inputs[offset + c.z / 4u][c.z % 4u], inputs[offset + c.w / 4u][c.w % 4u]));
}

fn weighted(v: vec4f, n: vec4f) -> vec4f { return bitcast<vec4f>(flush(bitcast<vec4u>(v * n))); }

// A group: elements `begin` to `end`, counted from the part's first; element e is in column e + shift.
struct Group { begin: i32, end: i32, shift: i32, columns: u32 }

fn inside(first: i32, g: Group) -> vec4<bool> {
  let e = vec4i(first) + vec4i(0, 1, 2, 3);
  return (e >= vec4i(g.begin)) & (e < vec4i(g.end));
}

// Keys of a vec8; those outside the group are none.
fn keys_at(p: Place, vec8: i32, g: Group) -> Keys {
  var v = values(p, vec8);
  if (WEIGHTED == 1u) {
    v.a = weighted(v.a, norms(p, 8 * vec8 + g.shift, g.columns));
    v.b = weighted(v.b, norms(p, 8 * vec8 + 4 + g.shift, g.columns));
  }
  return Keys(select(vec4u(NONE), magnitude(v.a), inside(8 * vec8, g)),
              select(vec4u(NONE), magnitude(v.b), inside(8 * vec8 + 4, g)));
}

fn ones(mask: vec4<bool>) -> vec4u { return select(vec4u(0u), vec4u(1u), mask); }
fn count(mask: vec4<bool>) -> u32 { return dot(ones(mask), vec4u(1u)); }
fn bits_of(mask: vec4<bool>) -> u32 { return dot(select(vec4u(0u), vec4u(1u, 2u, 4u, 8u), mask), vec4u(1u)); }

// How many of eight keys are below each of four.
fn below(keys: Keys, than: vec4u) -> vec4u {
  let x = ones(vec4u(keys.a.x) < than) + ones(vec4u(keys.a.y) < than);
  let y = ones(vec4u(keys.a.z) < than) + ones(vec4u(keys.a.w) < than);
  let z = ones(vec4u(keys.b.x) < than) + ones(vec4u(keys.b.y) < than);
  let w = ones(vec4u(keys.b.z) < than) + ones(vec4u(keys.b.w) < than);
  return (x + y) + (z + w);
}

// Bits of the elements of a vec8 that go, where groups are short.
fn short_goes(p: Place, size: u32, goes: u32, columns: u32) -> u32 {
  let flat = table[p.rec + RECORD_FLAT] + 8u * p.vec8; // a matrix has fewer than 2^32 elements
  let lanes = vec4u(0u, 1u, 2u, 3u);
  let own = i32(p.vec8);
  var result = 0u;
  var done = 0u;
  while (done < p.live) {
    let column = (flat + done) % columns;
    let at = column % size;
    let begin = 8 * own + i32(done) - i32(at);
    let g = Group(begin, begin + i32(size), i32(column - at) - begin, columns);
    let mine = keys_at(p, own, g);
    var a = vec4u(0u);
    var b = vec4u(0u);
    for (var vec8 = begin >> 3u; vec8 * 8 < g.end; vec8++) {
      let keys = keys_at(p, vec8, g);
      // Before this vec8, equal ones count.
      let equal = vec4u(select(0u, 1u, vec8 < own));
      a += below(keys, mine.a + equal);
      b += below(keys, mine.b + equal);
    }
    // In this vec8, those before the lane do.
    for (var e = done; e < min(8u, done + size - at); e++) {
      let key = vec4u(select(mine.a, mine.b, e >= 4u)[e & 3u]);
      a += ones((key == mine.a) & (vec4u(e) < lanes));
      b += ones((key == mine.b) & (vec4u(e) < lanes + 4u));
    }
    result |= bits_of((a < vec4u(goes)) & inside(8 * own, g)) |
              (bits_of((b < vec4u(goes)) & inside(8 * own + 4, g)) << 4u);
    done += size - at;
  }
  return result;
}

fn bin(keys: vec4u, shift: u32, prefix: u32) {
  for (var i = 0u; i < 4u; i++) {
    let high = keys[i] >> shift;
    if (keys[i] != NONE && high >> 8u == prefix) { atomicAdd(&bins[high & 255u], 1u); }
  }
}

// The bin in which the element of this rank is, by all invocations together.
fn pick(rank: u32, lid: u32) -> vec3u {
  workgroupBarrier();
  var total = 0u;
  for (var i = 0u; i < BINS / WORKERS; i++) { total += atomicLoad(&bins[lid * (BINS / WORKERS) + i]); }
  sums[lid] = total;
  workgroupBarrier();
  if (lid == 0u) {
    var left = rank;
    var part = 0u;
    while (part < WORKERS - 1u && sums[part] < left) {
      left -= sums[part];
      part += 1u;
    }
    var digit = part * (BINS / WORKERS);
    while (digit < BINS - 1u && atomicLoad(&bins[digit]) < left) {
      left -= atomicLoad(&bins[digit]);
      digit += 1u;
    }
    found = vec3u(digit, left, atomicLoad(&bins[digit]));
  }
  return workgroupUniformLoad(&found);
}

fn clear(lid: u32) {
  workgroupBarrier();
  for (var i = lid; i < BINS; i += WORKERS) { atomicStore(&bins[i], 0u); }
  workgroupBarrier();
}

// What goes of a row: the keys below `key`, and equal ones before element `till`.
struct Cut { key: u32, till: i32 }

fn cut_of(p: Place, g: Group, goes: u32, lid: u32) -> Cut {
  let first = g.begin >> 3u;
  let end = (g.end + 7) >> 3u;
  var key = 0u;
  var rank = goes;
  var equal = 0u;
  for (var round = 0u; round < rolled_together(4u); round++) {
    let shift = 24u - 8u * round;
    clear(lid);
    for (var o = first + i32(lid); o < end; o += i32(WORKERS)) {
      let keys = keys_at(p, o, g);
      bin(keys.a, shift, key);
      bin(keys.b, shift, key);
    }
    let here = pick(rank, lid);
    key = (key << 8u) | here.x;
    rank = here.y;
    equal = here.z;
  }
  if (rank == equal) { return Cut(key, g.end); }
  // The place of the last equal one that goes, by two bits a round.
  var last = 0u;
  for (var rounds = (33u - countLeadingZeros(u32(g.end - g.begin))) / 2u; rounds > 0u; rounds--) {
    let shift = 2u * (rounds - 1u);
    let tries = vec3u(last) | (vec3u(1u, 2u, 3u) << vec3u(shift));
    clear(lid);
    for (var o = first + i32(lid); o < end; o += i32(WORKERS)) {
      let k = keys_at(p, o, g);
      let e = vec4i(8 * o - g.begin) + vec4i(0, 1, 2, 3);
      for (var i = 0u; i < TRIES; i++) {
        let till = vec4i(i32(tries[i]));
        let more = count((k.a == vec4u(key)) & (e < till)) + count((k.b == vec4u(key)) & (e + vec4i(4) < till));
        if (more != 0u) { atomicAdd(&bins[i], more); }
      }
    }
    workgroupBarrier();
    if (lid == 0u) { found = vec3u(atomicLoad(&bins[0]), atomicLoad(&bins[1]), atomicLoad(&bins[2])); }
    let less = workgroupUniformLoad(&found) < vec3u(rank);
    last |= dot(select(vec3u(0u), vec3u(1u), less), vec3u(1u)) << shift;
  }
  return Cut(key, g.begin + i32(last) + 1);
}

fn below_cut(keys: vec4u, first: i32, cut: Cut) -> vec4<bool> {
  let e = vec4i(first) + vec4i(0, 1, 2, 3);
  return (keys < vec4u(cut.key)) | ((keys == vec4u(cut.key)) & (e < vec4i(cut.till)));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, 0u);
  if (start.live == 0u) { return; }
  let size = u32(bitcast<f32>(coef_word(start, 0u)));
  let goes = u32(bitcast<f32>(coef_word(start, 1u)));
  let columns = u32(bitcast<f32>(coef_word(start, 2u)));
  var bits = 0u;
  if (LONG != 0u && size > SHORT && goes > 0u) {
    let elements = i32(min(table[start.rec + RECORD_ELEMENTS], 8u * start.vec8 + BLOCK));
    let position = (table[start.rec + RECORD_FLAT] + 8u * start.vec8) % size;
    for (var begin = i32(8u * start.vec8) - i32(position); begin < elements; begin += i32(size)) {
      let g = Group(begin, begin + i32(size), -begin, columns);
      let cut = cut_of(start, g, goes, lid);
      for (var k = 0u; k < rolled(VEC8S); k++) {
        let vec8 = i32(start.vec8 + VEC8S * lid + k);
        if (8 * vec8 + 7 < begin || 8 * vec8 >= g.end) { continue; }
        let keys = keys_at(start, vec8, g);
        let gone = bits_of(below_cut(keys.a, 8 * vec8, cut)) | (bits_of(below_cut(keys.b, 8 * vec8 + 4, cut)) << 4u);
        bits |= gone << (8u * k);
      }
    }
  }
  for (var k = 0u; k < rolled(VEC8S); k++) {
    let p = along(start, VEC8S * lid + k);
    if (p.live == 0u) { break; }
    var gone = (bits >> (8u * k)) & 255u;
    if (LONG != 1u && size <= SHORT) { gone = short_goes(p, size, goes, columns); }
    let v = values(p, i32(p.vec8));
    let lanes = vec4u(0u, 1u, 2u, 3u);
    let a = ((vec4u(gone) >> lanes) & vec4u(1u)) == vec4u(1u);
    let b = ((vec4u(gone >> 4u) >> lanes) & vec4u(1u)) == vec4u(1u);
    store(p, Vec8(select(v.a, vec4f(0.0), a), select(v.b, vec4f(0.0), b)));
  }
}
