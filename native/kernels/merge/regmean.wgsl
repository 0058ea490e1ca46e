// RegMean: out = W_1 + (W_2 - W_1) M_2 + (W_3 - W_1) M_3 + ..., f32, one rounding. Inputs: W_1 .. W_k [rows, n], whose
// rows have to be whole; M_2 .. M_k [n, n], f32, all of them whole. Coefficient: n. Sums run over n in order, matrix by
// matrix. The W are of one type. A matrix has fewer than 2^32 elements.
#include "tile.wgsl"
#include "store.wgsl"

override MODELS: u32 = DTYPE_F32; // code of the type of the W

// A vec8 of M.
fn factor(source: u32, vec8: u32) -> Vec8 {
  let at = source_at(source) + 2u * vec8;
  return Vec8(bitcast<vec4f>(inputs[at]), bitcast<vec4f>(inputs[at + 1u]));
}

// Element `index` of a vec8.
fn pick(v: Vec8, index: u32) -> f32 {
  let four = select(v.a, v.b, (index & 4u) != 0u);
  return four[index & 3u];
}

// W_i - W_1, eight elements. They may lie before the tile or behind it, in the same row: vec8s count below zero there.
fn difference(p: Place, i: u32, vec8: u32) -> Vec8 {
  let x = model(p, i, vec8);
  let base = model(p, 0u, vec8);
  return Vec8(x.a - base.a, x.b - base.b);
}

fn model(p: Place, i: u32, vec8: u32) -> Vec8 {
  let bits = load_bits(source_at(source(p, i)), MODELS, vec8);
  return Vec8(bitcast<vec4f>(bits.a), bitcast<vec4f>(bits.b));
}

// Vec8s of four rows of the result.
struct Rows { a: Vec8, b: Vec8, c: Vec8, d: Vec8 }

fn add(sum: Vec8, x: Vec8, factor: f32) -> Vec8 {
  return Vec8(sum.a + prod4(x.a, factor), sum.b + prod4(x.b, factor));
}

fn add_rows(sums: Rows, x: Vec8, a: f32, b: f32, c: f32, d: f32) -> Rows {
  return Rows(add(sums.a, x, a), add(sums.b, x, b), add(sums.c, x, c), add(sums.d, x, d));
}

// A vec8 of the segment, wherever it lies; nothing where it is not one.
fn store_at(p: Place, vec8: u32, v: Vec8) {
  let elements = table[p.rec + RECORD_ELEMENTS];
  if (vec8 < (elements + 7u) / 8u) { store(Place(p.block, p.rec, vec8, min(8u, elements - 8u * vec8), elements), v); }
}

// Rows of a multiple of eight elements. The result of the segment is cut into cells of 16 rows and 128 columns, which
// its workgroups share: an invocation has four rows and eight columns of one, so that each vec8 of M serves four rows.
fn cells(p: Place, n: u32, models: u32, lid: u32) {
  let elements = table[p.rec + RECORD_ELEMENTS];
  let start = table[p.rec + RECORD_FLAT];
  let width = n / 8u;
  let first = start / n;
  let last = (start + elements - 1u) / n;
  let across = (width + 15u) / 16u;
  let count = across * ((last - first) / 16u + 1u);
  let blocks = (elements + BLOCK - 1u) / BLOCK;
  for (var cell = p.block - table[p.rec + RECORD_FIRST_BLOCK]; cell < count; cell += blocks) {
    let column = (cell % across) * 16u + lid % 16u;
    let top = first + (cell / across) * 16u + (lid / 16u) * 4u;
    if (column >= width || top > last) { continue; }
    // Where the rows begin; those past the last one repeat it.
    let rows = min(vec4u(top) + vec4u(0u, 1u, 2u, 3u), vec4u(last)) * vec4u(n) - vec4u(start);
    let at = bitcast<vec4u>(bitcast<vec4i>(rows) >> vec4u(3u));
    var sums = Rows(model(p, 0u, at.x + column), model(p, 0u, at.y + column),
                    model(p, 0u, at.z + column), model(p, 0u, at.w + column));
    for (var i = 1u; i < models; i++) {
      let m = source(p, models + i - 1u);
      var vec8 = column;
      for (var j = 0u; j < width; j++) {
        let a = difference(p, i, at.x + j);
        let b = difference(p, i, at.y + j);
        let c = difference(p, i, at.z + j);
        let d = difference(p, i, at.w + j);
        sums = add_rows(sums, factor(m, vec8), a.a.x, b.a.x, c.a.x, d.a.x);
        sums = add_rows(sums, factor(m, vec8 + width), a.a.y, b.a.y, c.a.y, d.a.y);
        sums = add_rows(sums, factor(m, vec8 + 2u * width), a.a.z, b.a.z, c.a.z, d.a.z);
        sums = add_rows(sums, factor(m, vec8 + 3u * width), a.a.w, b.a.w, c.a.w, d.a.w);
        sums = add_rows(sums, factor(m, vec8 + 4u * width), a.b.x, b.b.x, c.b.x, d.b.x);
        sums = add_rows(sums, factor(m, vec8 + 5u * width), a.b.y, b.b.y, c.b.y, d.b.y);
        sums = add_rows(sums, factor(m, vec8 + 6u * width), a.b.z, b.b.z, c.b.z, d.b.z);
        sums = add_rows(sums, factor(m, vec8 + 7u * width), a.b.w, b.b.w, c.b.w, d.b.w);
        vec8 += 8u * width;
      }
    }
    store_at(p, at.x + column, sums.a);
    if (top + 1u <= last) { store_at(p, at.y + column, sums.b); }
    if (top + 2u <= last) { store_at(p, at.z + column, sums.c); }
    if (top + 3u <= last) { store_at(p, at.w + column, sums.d); }
  }
}

// Rows of any length, element by element.
fn single(p: Place, n: u32, models: u32) {
  let start = table[p.rec + RECORD_FLAT];
  let first = start + 8u * p.vec8;
  var out = model(p, 0u, p.vec8);
  for (var i = 1u; i < models; i++) {
    let m = source(p, models + i - 1u);
    for (var e = 0u; e < p.live; e++) {
      let column = (first + e) % n;
      let row = first + e - column - start;
      var sum = pick(out, e);
      for (var j = 0u; j < n; j++) {
        let d = difference(p, i, u32(i32(row + j) >> 3u));
        let at = j * n + column;
        sum += prod(pick(factor(m, at >> 3u), at & 7u), pick(d, (row + j) & 7u));
      }
      if (e < 4u) { out.a[e] = sum; } else { out.b[e - 4u] = sum; }
    }
  }
  store(p, out);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, 0u);
  if (p.live == 0u) { return; }
  let n = u32(coef(p, 0u));
  let models = (INPUTS + 1u) / 2u;
  if ((n & 7u) == 0u) {
    cells(p, n, models, lid);
    return;
  }
  for (var k = 0u; k < 4u; k++) {
    let q = place(wid, nwg, 4u * lid + k);
    if (q.live != 0u) { single(q, n, models); }
  }
}
