// Zeros in place of the elements of least score in each group of neighbours of a row, of equal ones the first. A score is
// |x|, or with WEIGHTED 1 |x| times the norm of its column. A group is a whole row, or a few elements that fill rows.
// Inputs: x; with WEIGHTED 1 the norms (F32, whole). Coefficients: elements of a group, how many of them go, columns.
#include "tile.wgsl"
#include "delta.wgsl"
#include "store.wgsl"

override WEIGHTED: u32 = 0u;
override WEIGHT: u32 = 15u; // code of the type of x; 15: the inputs'
override WHOLE: u32 = 2u;   // 1: groups are long, 0: short; 2: either

const WORKERS = 64u;        // invocations; each has OCTETS octets of the block
const OCTETS = 4u;
const SHORT = 32u;          // groups up to this size are counted by every invocation for itself
const NONE = 0xffffffffu;   // above all keys
const DIGITS = 3u;          // candidates a round: two bits of a key, or of a place

var<workgroup> counting: array<atomic<u32>, DIGITS>;
var<workgroup> counted: vec3u;

struct Keys { a: vec4u, b: vec4u }

// The bound of a loop that compilers cannot unroll: unrolled, the kernel takes them several times as long.
fn rolled(bound: u32) -> u32 { return bound + table[0]; }

fn values(p: Place, octet: i32) -> Octet {
  let offset = source(p, 0u);
  if (WEIGHT == MIXED) { return load_from(offset, u32(octet)); }
  let bits = load_bits(offset & 0x0fffffffu, WEIGHT, u32(octet));
  return Octet(bitcast<vec4f>(bits.a), bitcast<vec4f>(bits.b));
}

// Norms of four columns; lanes outside the row are not looked at.
fn norms(p: Place, column: i32, columns: u32) -> vec4f {
  let c = vec4u(clamp(vec4i(column) + vec4i(0, 1, 2, 3), vec4i(0), vec4i(i32(columns) - 1)));
  let offset = source(p, 1u) & 0x0fffffffu;
  return bitcast<vec4f>(vec4u(inputs[offset + c.x / 4u][c.x % 4u], inputs[offset + c.y / 4u][c.y % 4u],
                              inputs[offset + c.z / 4u][c.z % 4u], inputs[offset + c.w / 4u][c.w % 4u]));
}

fn weighted(v: vec4f, n: vec4f) -> vec4f { return bitcast<vec4f>(flush(bitcast<vec4u>(v * n))); }

// Keys of an octet whose first element is in `column`; those outside [0, end) of the row are none.
fn keys_at(p: Place, octet: i32, column: i32, end: i32, columns: u32) -> Keys {
  var v = values(p, octet);
  if (WEIGHTED == 1u) {
    v.a = weighted(v.a, norms(p, column, columns));
    v.b = weighted(v.b, norms(p, column + 4, columns));
  }
  let a = vec4i(column) + vec4i(0, 1, 2, 3);
  let b = a + vec4i(4);
  return Keys(select(vec4u(NONE), magnitude(v.a), (a >= vec4i(0)) & (a < vec4i(end))),
              select(vec4u(NONE), magnitude(v.b), (b >= vec4i(0)) & (b < vec4i(end))));
}

fn ones(mask: vec4<bool>) -> u32 {
  let one = select(vec4u(0u), vec4u(1u), mask);
  return (one.x + one.y) + (one.z + one.w);
}

fn bits_of(mask: vec4<bool>) -> u32 {
  let bits = select(vec4u(0u), vec4u(1u, 2u, 4u, 8u), mask);
  return (bits.x | bits.y) | (bits.z | bits.w);
}

// Sums over the workgroup.
fn total(mine: vec3u, lid: u32) -> vec3u {
  workgroupBarrier();
  if (lid < DIGITS) { atomicStore(&counting[lid], 0u); }
  workgroupBarrier();
  for (var i = 0u; i < DIGITS; i++) {
    if (mine[i] != 0u) { atomicAdd(&counting[i], mine[i]); }
  }
  workgroupBarrier();
  if (lid == 0u) { counted = vec3u(atomicLoad(&counting[0]), atomicLoad(&counting[1]), atomicLoad(&counting[2])); }
  return workgroupUniformLoad(&counted);
}

// Which elements of a row of `size` that begins at `begin` go: the keys below `key`, and equal ones up to place `last`.
struct Cut { key: u32, last: u32 }

fn cut_row(p: Place, begin: i32, size: u32, goes: u32, lid: u32) -> Cut {
  let first = begin >> 3u;
  let end = (begin + i32(size) + 7) >> 3u;
  var key = 0u;
  for (var round = 0u; round < rolled(16u); round++) {
    let shift = 30u - 2u * round;
    let tries = vec3u(key) | (vec3u(1u, 2u, 3u) << vec3u(shift));
    var below = vec3u(0u);
    for (var o = first + i32(lid); o < end; o += i32(WORKERS)) {
      let k = keys_at(p, o, 8 * o - begin, i32(size), size);
      for (var i = 0u; i < rolled(DIGITS); i++) { below[i] += ones(k.a < vec4u(tries[i])) + ones(k.b < vec4u(tries[i])); }
    }
    let less = total(below, lid) < vec3u(goes);
    key |= dot(select(vec3u(0u), vec3u(1u), less), vec3u(1u)) << shift;
  }
  var facts = vec3u(0u);
  for (var o = first + i32(lid); o < end; o += i32(WORKERS)) {
    let k = keys_at(p, o, 8 * o - begin, i32(size), size);
    facts += vec3u(ones(k.a < vec4u(key)) + ones(k.b < vec4u(key)), ones(k.a == vec4u(key)) + ones(k.b == vec4u(key)), 0u);
  }
  facts = total(facts, lid);
  let quota = goes - facts.x;
  if (facts.y == quota) { return Cut(key, size); }
  // The place of the last equal one that goes, by two bits a round too.
  var last = 0u;
  for (var rounds = (33u - countLeadingZeros(size)) / 2u; rounds > 0u; rounds--) {
    let shift = 2u * (rounds - 1u);
    let tries = vec3u(last) | (vec3u(1u, 2u, 3u) << vec3u(shift));
    var before = vec3u(0u);
    for (var o = first + i32(lid); o < end; o += i32(WORKERS)) {
      let k = keys_at(p, o, 8 * o - begin, i32(size), size);
      let a = vec4i(8 * o - begin) + vec4i(0, 1, 2, 3);
      for (var i = 0u; i < rolled(DIGITS); i++) {
        let till = vec4i(i32(tries[i]));
        before[i] += ones((k.a == vec4u(key)) & (a < till)) + ones((k.b == vec4u(key)) & (a + vec4i(4) < till));
      }
    }
    let less = total(before, lid) < vec3u(quota);
    last |= dot(select(vec3u(0u), vec3u(1u), less), vec3u(1u)) << shift;
  }
  return Cut(key, last);
}

// The key of element `e`, counted from the part's first.
fn key_of(p: Place, e: i32, column: u32, columns: u32) -> u32 {
  let k = keys_at(p, e >> 3u, i32(column) - (e & 7), i32(columns), columns);
  return select(k.a, k.b, (e & 4) != 0)[e & 3];
}

// Bits of the elements of an octet that go, where groups are short.
fn short_goes(p: Place, size: u32, goes: u32, columns: u32) -> u32 {
  let flat = table[p.rec + 2u] + 8u * p.octet; // a matrix has fewer than 2^32 elements
  var result = 0u;
  for (var e = 0u; e < p.live; e++) {
    let column = (flat + e) % columns;
    let place = column % size;
    let own = i32(8u * p.octet + e);
    let mine = key_of(p, own, column, columns);
    var below = 0u;
    for (var i = 0u; i < size; i++) {
      let key = key_of(p, own + i32(i) - i32(place), column + i - place, columns);
      if (key < mine || (key == mine && i < place)) { below += 1u; }
    }
    if (below < goes) { result |= 1u << e; }
  }
  return result;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, 0u);
  if (start.live == 0u) { return; }
  let size = u32(coef(start, 0u));
  let goes = u32(coef(start, 1u));
  let columns = u32(coef(start, 2u));
  var bits = 0u;
  if (WHOLE != 0u && size > SHORT) {
    let elements = i32(min(table[start.rec], 8u * start.octet + 2048u));
    let position = (table[start.rec + 2u] + 8u * start.octet) % size;
    for (var begin = i32(8u * start.octet) - i32(position); begin < elements; begin += i32(size)) {
      if (goes == 0u) { continue; }
      let cut = cut_row(start, begin, size, goes, lid);
      for (var k = 0u; k < OCTETS; k++) {
        let octet = i32(start.octet + OCTETS * lid + k);
        let column = 8 * octet - begin;
        if (column + 7 < 0 || column >= i32(size)) { continue; }
        let keys = keys_at(start, octet, column, i32(size), size);
        let a = vec4i(column) + vec4i(0, 1, 2, 3);
        let till = vec4i(i32(cut.last));
        let key = vec4u(cut.key);
        let near = (keys.a < key) | ((keys.a == key) & (a <= till));
        let far = (keys.b < key) | ((keys.b == key) & (a + vec4i(4) <= till));
        bits |= (bits_of(near) | (bits_of(far) << 4u)) << (8u * k);
      }
    }
  }
  for (var k = 0u; k < OCTETS; k++) {
    let p = along(start, OCTETS * lid + k);
    if (p.live == 0u) { break; }
    var gone = (bits >> (8u * k)) & 255u;
    if (WHOLE != 1u && size <= SHORT) { gone = short_goes(p, size, goes, columns); }
    let v = values(p, i32(p.octet));
    let lanes = vec4u(0u, 1u, 2u, 3u);
    let a = ((vec4u(gone) >> lanes) & vec4u(1u)) == vec4u(1u);
    let b = ((vec4u(gone >> 4u) >> lanes) & vec4u(1u)) == vec4u(1u);
    store(p, Octet(select(v.a, vec4f(0.0), a), select(v.b, vec4f(0.0), b)));
  }
}
