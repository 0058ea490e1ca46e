// Low-rank adaptation (LoRA, arXiv 2106.09685): out = W + s (B A), f32, one rounding. Inputs: W [rows, columns]; B
// [rows, r] and A [r, columns], both whole. With TRANSPOSED the product is turned: W + s (B A)^T with B [columns, r], A
// [r, rows] (fan_in_fan_out, embeddings). Coefficients: columns, r, s, rows. Sums run over r in order. Weights and
// factors mostly have different types: where both are known when the pipeline is made, it compiles in a tenth of the
// time.
#include "main_vec8.wgsl"

override TRANSPOSED: u32 = 0u;
override WEIGHT: u32 = DTYPE_MIXED;  // code of the type of W; mixed: the inputs'
override FACTORS: u32 = DTYPE_MIXED; // of B and A

fn vec8_at(p: Place, input: u32, vec8: u32, code: u32) -> Vec8 {
  if (code == DTYPE_MIXED) { return load(Place(p.block, p.rec, vec8, 8u, p.elements), input); }
  let bits = load_bits(source_at(table[p.rec + RECORD_SOURCES + input]), code, vec8);
  return Vec8(bitcast<vec4f>(bits.a), bitcast<vec4f>(bits.b));
}

fn at(p: Place, input: u32, index: u32) -> f32 {
  let x = vec8_at(p, input, index >> 3u, FACTORS);
  let four = select(x.a, x.b, (index & 4u) != 0u);
  return four[index & 3u];
}

fn merge(p: Place) {
  let columns = u32(coef(p, 0u));
  let rank = u32(coef(p, 1u));
  let scale = coef(p, 2u);
  let rows = u32(coef(p, 3u));
  let first = table[p.rec + RECORD_FLAT] + 8u * p.vec8;  // a matrix has fewer than 2^32 elements
  var sum = Vec8(vec4f(0.0), vec4f(0.0));
  if (TRANSPOSED == 0u && (columns & 7u) == 0u) {
    // The vec8 lies in one row, and so do the eight columns of A it takes.
    let row = first / columns;
    let column = first % columns;
    for (var k = 0u; k < rank; k++) {
      let a = vec8_at(p, 2u, (k * columns + column) >> 3u, FACTORS);
      let b = at(p, 1u, row * rank + k);
      sum.a += prod4(a.a, b);
      sum.b += prod4(a.b, b);
    }
  } else {
    for (var e = 0u; e < p.live; e++) {
      let row = (first + e) / columns;
      let column = (first + e) % columns;
      var dot = 0.0;
      for (var k = 0u; k < rank; k++) {
        let a = at(p, 2u, select(k * columns + column, k * rows + row, TRANSPOSED == 1u));
        dot += prod(a, at(p, 1u, select(row, column, TRANSPOSED == 1u) * rank + k));
      }
      if (e < 4u) { sum.a[e] = dot; } else { sum.b[e - 4u] = dot; }
    }
  }
  let x = vec8_at(p, 0u, p.vec8, WEIGHT);
  store(p, Vec8(x.a + prod4(sum.a, scale), x.b + prod4(sum.b, scale)));
}
