// What kernel lora does, in its forms; see there for the formula. What includes it says whether it has STRIPS.
#include "tile.wgsl"
#include "store.wgsl"

override TRANSPOSED: u32 = 0u;
override WEIGHT: u32 = DTYPE_MIXED;  // code of the type of W; mixed: the inputs'
override FACTORS: u32 = DTYPE_MIXED; // of B and A
override LANES: u32 = 64u;           // see main_vec8.wgsl

const PAIR_WORDS = 4u;
var<private> changed: u32;
var<private> swallowed: u32;
var<private> odd: u32; // NaN and Inf

fn vec8_at(p: Place, input: u32, vec8: u32, code: u32) -> Vec8 {
  return load_as(table[p.rec + RECORD_SOURCES + input], vec8, code);
}

fn at(p: Place, input: u32, index: u32) -> f32 {
  let x = vec8_at(p, input, index >> 3u, FACTORS);
  let four = select(x.a, x.b, (index & 4u) != 0u);
  return four[index & 3u];
}

// The vec8 of B A (or of its transpose) that begins with element `first` of the matrix.
fn product(p: Place, pair: u32, first: u32, rows: u32, columns: u32) -> Vec8 {
  let words = 2u + PAIR_WORDS * pair;
  let rank = u32(coef(p, words));
  let step = u32(coef(p, words + 2u));
  let offset = u32(coef(p, words + 3u));
  let b_input = 1u + 2u * pair;
  let a_input = b_input + 1u;
  var sum = Vec8(vec4f(0.0), vec4f(0.0));
  if (TRANSPOSED == 0u && (columns & 7u) == 0u) {
    // The vec8 lies in one row, and so do the eight columns of A it takes.
    let row = first / columns;
    let column = first % columns;
    if (step == 1u && (rank & 7u) == 0u) {
      for (var k = 0u; k < rank; k += 8u) {
        let b = vec8_at(p, b_input, (row * rank + k) >> 3u, FACTORS);
        for (var j = 0u; j < rolled(8u); j++) {
          let a = vec8_at(p, a_input, ((k + j) * columns + column) >> 3u, FACTORS);
          let factor = select(b.a, b.b, j >= 4u)[j & 3u];
          sum.a += prod4(a.a, factor);
          sum.b += prod4(a.b, factor);
        }
      }
      return sum;
    }
    for (var k = 0u; k < rank; k++) {
      let a = vec8_at(p, a_input, (k * columns + column) >> 3u, FACTORS);
      let factor = at(p, b_input, (row * rank + k) * step + offset);
      sum.a += prod4(a.a, factor);
      sum.b += prod4(a.b, factor);
    }
    return sum;
  }
  for (var e = 0u; e < p.live; e++) {
    let row = (first + e) / columns;
    let column = (first + e) % columns;
    var dot = 0.0;
    for (var k = 0u; k < rank; k++) {
      let a = at(p, a_input, select(k * columns + column, k * rows + row, TRANSPOSED == 1u));
      dot += prod(a, at(p, b_input, (select(row, column, TRANSPOSED == 1u) * rank + k) * step + offset));
    }
    if (e < 4u) { sum.a[e] = dot; } else { sum.b[e - 4u] = dot; }
  }
  return sum;
}

// The bits of a weight as it would be stored without a change.
fn unchanged(x: vec4f) -> vec4u {
  if (WEIGHT != OUT_DTYPE) { return rounded(x); }
  let bits = bitcast<vec4u>(x);
  if (OUT_DTYPE == DTYPE_BF16) { return bits >> vec4u(16u); }
  if (OUT_DTYPE == DTYPE_F16) { return to_f16(bits); }
  return bits;
}

// Of bits as they are stored.
fn not_finite(bits: vec4u) -> vec4<bool> {
  var exponent = 0x7f800000u;
  if (OUT_DTYPE == DTYPE_BF16) { exponent = 0x7f80u; }
  if (OUT_DTYPE == DTYPE_F16) { exponent = 0x7c00u; }
  return (bits & vec4u(exponent)) == vec4u(exponent);
}

// Counts and stores; `asked`: where a product is not zero.
fn finish(p: Place, x: Vec8, sum: Vec8, asked_a: vec4<bool>, asked_b: vec4<bool>) {
  let same_a = rounded(sum.a) == unchanged(x.a);
  let same_b = rounded(sum.b) == unchanged(x.b);
  changed += count4(!same_a, 0u, p.live) + count4(!same_b, 4u, p.live);
  swallowed += count4(same_a & asked_a, 0u, p.live) + count4(same_b & asked_b, 4u, p.live);
  store(p, sum);
}

fn adapt(p: Place) {
  let columns = u32(coef(p, 0u));
  let rows = u32(coef(p, 1u));
  let first = table[p.rec + RECORD_FLAT] + 8u * p.vec8; // a matrix has fewer than 2^32 elements
  let x = vec8_at(p, 0u, p.vec8, WEIGHT);
  var sum = x;
  var asked_a = vec4<bool>(false);
  var asked_b = vec4<bool>(false);
  for (var pair = 0u; pair < rolled((INPUTS - 1u) / 2u); pair++) {
    let change = product(p, pair, first, rows, columns);
    let scale = coef(p, 2u + PAIR_WORDS * pair + 1u);
    let a = prod4(change.a, scale);
    let b = prod4(change.b, scale);
    sum = Vec8(sum.a + a, sum.b + b);
    asked_a = asked_a | (a != vec4f(0.0));
    asked_b = asked_b | (b != vec4f(0.0));
  }
  finish(p, x, sum, asked_a, asked_b);
}

// How many rows a strip has: what is loaded of A serves all of them.
const STRIP = 4u;

// Whether all products can be computed strip by strip. Types that are found in the call would make the unrolled loops
// take seconds to compile.
fn in_strips(p: Place) -> bool {
  if (TRANSPOSED == 1u || WEIGHT == DTYPE_MIXED || FACTORS == DTYPE_MIXED) { return false; }
  var all = (u32(coef(p, 0u)) & 7u) == 0u;
  for (var pair = 0u; pair < rolled((INPUTS - 1u) / 2u); pair++) {
    let words = 2u + PAIR_WORDS * pair;
    all = all && (u32(coef(p, words)) & 7u) == 0u && u32(coef(p, words + 2u)) == 1u;
  }
  return all;
}

// Eight columns of the rows of a strip: the same sums as of `adapt`, in the same order.
fn adapt_strip(p: Place, row: u32, column: u32, columns: u32, first: u32) {
  var sums: array<Vec8, STRIP>;
  var olds: array<Vec8, STRIP>;
  var asked: array<vec4<bool>, 2u * STRIP>;
  var places: array<Place, STRIP>;
  for (var r = 0u; r < STRIP; r++) {
    // Rows before the segment wrap around, and are not live either.
    let at = ((row + r) * columns + column - first) >> 3u;
    places[r] = vec8_of(p.block, p.rec, select(at, 0x1fffffffu, (row + r) * columns + column < first), p.elements);
    olds[r] = Vec8(vec4f(0.0), vec4f(0.0));
    if (places[r].live != 0u) { olds[r] = vec8_at(places[r], 0u, places[r].vec8, WEIGHT); }
    sums[r] = olds[r];
    asked[2u * r] = vec4<bool>(false);
    asked[2u * r + 1u] = vec4<bool>(false);
  }
  let rows = u32(coef(p, 1u));
  for (var pair = 0u; pair < rolled((INPUTS - 1u) / 2u); pair++) {
    let words = 2u + PAIR_WORDS * pair;
    let rank = u32(coef(p, words));
    let scale = coef(p, words + 1u);
    let b_off = source_at(table[p.rec + RECORD_SOURCES + 1u + 2u * pair]);
    let a_off = source_at(table[p.rec + RECORD_SOURCES + 2u + 2u * pair]);
    var products: array<Vec8, STRIP>;
    for (var r = 0u; r < STRIP; r++) { products[r] = Vec8(vec4f(0.0), vec4f(0.0)); }
    for (var k = 0u; k < rank; k += 8u) {
      var factors: array<Vec8, STRIP>;
      for (var r = 0u; r < STRIP; r++) {
        let b = load_bits(b_off, FACTORS, (min(row + r, rows - 1u) * rank + k) >> 3u);
        factors[r] = Vec8(bitcast<vec4f>(b.a), bitcast<vec4f>(b.b));
      }
      for (var j = 0u; j < 8u; j++) {
        let bits = load_bits(a_off, FACTORS, ((k + j) * columns + column) >> 3u);
        for (var r = 0u; r < STRIP; r++) {
          let factor = select(factors[r].a[j & 3u], factors[r].b[j & 3u], j >= 4u);
          products[r].a += prod4(bitcast<vec4f>(bits.a), factor);
          products[r].b += prod4(bitcast<vec4f>(bits.b), factor);
        }
      }
    }
    for (var r = 0u; r < STRIP; r++) {
      let a = prod4(products[r].a, scale);
      let b = prod4(products[r].b, scale);
      sums[r] = Vec8(sums[r].a + a, sums[r].b + b);
      asked[2u * r] = asked[2u * r] | (a != vec4f(0.0));
      asked[2u * r + 1u] = asked[2u * r + 1u] | (b != vec4f(0.0));
    }
  }
  for (var r = 0u; r < STRIP; r++) {
    if (places[r].live != 0u) {
      finish(places[r], olds[r], sums[r], asked[2u * r], asked[2u * r + 1u]);
    }
  }
}

// A block of the output, with others of the same segment.
fn adapt_block(start: Place, lid: u32) {
  if (STRIPS && in_strips(start)) {
    // The strips of the segment, cut into columns of eight, are dealt to its blocks in equal parts.
    let columns = u32(coef(start, 0u));
    let first = table[start.rec + RECORD_FLAT];
    let blocks = (start.elements + BLOCK - 1u) / BLOCK;
    let before = first / columns / STRIP;
    let strips = (first + start.elements + columns - 1u) / columns;
    let tasks = ((strips + STRIP - 1u) / STRIP - before) * (columns >> 3u);
    let each = (tasks + blocks - 1u) / max(blocks, 1u);
    let block = start.block - table[start.rec + RECORD_FIRST_BLOCK];
    let end = select(0u, min(tasks, (block + 1u) * each), start.elements != 0u);
    for (var task = block * each + lid; task < end; task += LANES) {
      let strip = before + task / (columns >> 3u);
      adapt_strip(start, STRIP * strip, 8u * (task % (columns >> 3u)), columns, first);
    }
  } else {
    for (var k = 0u; k < rolled(BLOCK_VEC8S / LANES); k++) {
      let p = along(start, LANES * k);
      if (p.live != 0u) { adapt(p); }
    }
  }
}

fn report(start: Place) {
  if (changed != 0u) { atomicAdd(&counts[count_index(start, COUNT_CHANGED)], changed); }
  if (swallowed != 0u) { atomicAdd(&counts[count_index(start, COUNT_SWALLOWED)], swallowed); }
}
