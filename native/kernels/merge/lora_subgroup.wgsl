// lora for devices with subgroups of at least 4. A single pair is multiplied sixteen rows at a time: neighbours have
// the same rows and other columns, and read B for each other, because on a CPU a read costs many times what a product
// does. The sums are those of lora, in the same order.
enable subgroups;
diagnostic(off, subgroup_uniformity);
#include "adapt.wgsl"

override STRIPS: bool = INPUTS != 3u;

override SUBGROUP: u32; // invocations of a subgroup, at least
override SHARE: u32 = min(8u, SUBGROUP);

const TALL = 16u; // rows
override READS: u32 = TALL / SHARE; // rows of B that a neighbour reads

fn is_tall(p: Place) -> bool {
  return INPUTS == 3u && in_strips(p) && u32(coef(p, 0u)) >= 8u * LANES;
}

// Eight columns of sixteen rows.
fn adapt_tall(p: Place, row: u32, column: u32, neighbour: u32) {
  let columns = u32(coef(p, 0u));
  let rows = u32(coef(p, 1u));
  let rank = u32(coef(p, 2u));
  let scale = coef(p, 3u);
  let first = flat.x;
  let w_off = source_at(sources.x);
  let b_off = source_at(sources.y);
  let a_off = source_at(sources.z);
  let own = min(column, columns - 8u);
  var products = array<Vec8, TALL>();
  for (var k = 0u; k < rank; k += 8u) {
    var mine: array<Vec8, TALL / 4u>;
    for (var e = 0u; e < READS; e++) {
      let bits = load_bits(b_off, FACTORS, (min(row + e * SHARE + neighbour % SHARE, rows - 1u) * rank + k) >> 3u);
      mine[e] = Vec8(bitcast<vec4f>(bits.a), bitcast<vec4f>(bits.b));
    }
    for (var j = 0u; j < rolled(8u); j++) {
      let bits = load_bits(a_off, FACTORS, ((k + j) * columns + own) >> 3u);
      var factors: array<f32, TALL / 4u>;
      for (var e = 0u; e < READS; e++) { factors[e] = select(mine[e].a, mine[e].b, j >= 4u)[j & 3u]; }
      for (var r = 0u; r < TALL; r++) {
        let factor = subgroupShuffle(factors[r / SHARE], r % SHARE);
        products[r].a += prod4(bitcast<vec4f>(bits.a), factor);
        products[r].b += prod4(bitcast<vec4f>(bits.b), factor);
      }
    }
  }
  for (var r = 0u; r < rolled(TALL); r++) {
    let at = (row + r) * columns + column;
    // Segments are whole vec8s here. Rows before this one wrap around, and are not live either.
    let live = column < columns && at >= first && at - first < p.elements;
    let vec8 = select(0u, (at - first) >> 3u, live);
    let bits = load_bits(w_off, WEIGHT, vec8);
    finish_vec8(vec8, live, Vec8(bitcast<vec4f>(bits.a), bitcast<vec4f>(bits.b)),
                Vec8(prod4(products[r].a, scale), prod4(products[r].b, scale)));
  }
}

fn ones(mask: vec4<bool>) -> u32 { return dot(select(vec4u(), vec4u(1u), mask), vec4u(1u)); }

// As `finish`, of eight elements or none, with counts that are added up at the end.
fn finish_vec8(vec8: u32, live: bool, x: Vec8, change: Vec8) {
  let a = rounded(x.a + change.a);
  let b = rounded(x.b + change.b);
  let same_a = a == unchanged(x.a);
  let same_b = b == unchanged(x.b);
  let one = select(0u, 1u, live);
  changed += one * (8u - ones(same_a) - ones(same_b));
  swallowed += one * (ones(same_a & (change.a != vec4f())) + ones(same_b & (change.b != vec4f())));
  odd += one * (ones(not_finite(a)) + ones(not_finite(b)));
  if (!live) { return; }
  if (OUT_DTYPE == DTYPE_F32) {
    output[output_at + 2u * vec8] = a;
    output[output_at + 2u * vec8 + 1u] = b;
  } else {
    output[output_at + vec8] = pack(a, b);
  }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32, @builtin(subgroup_invocation_id) neighbour: u32) {
  let start = place(wid, nwg, lid);
  if (is_tall(start)) {
    // Rows and columns of the segment are dealt to its blocks in equal parts. All invocations have the same rows.
    let columns = u32(coef(start, 0u));
    let first = flat.x;
    let blocks = (start.elements + BLOCK - 1u) / BLOCK;
    let before = first / columns / TALL;
    let last = (first + start.elements + columns - 1u) / columns;
    let across = (columns + 8u * LANES - 1u) / (8u * LANES);
    let tasks = ((last + TALL - 1u) / TALL - before) * across;
    let each = (tasks + blocks - 1u) / max(blocks, 1u);
    let block = start.block - table[start.rec + RECORD_FIRST_BLOCK];
    let end = select(0u, min(tasks, (block + 1u) * each), start.elements != 0u);
    for (var task = block * each; task < end; task++) {
      adapt_tall(start, TALL * (before + task / across), 8u * (task % across * LANES + lid), neighbour);
    }
    if (odd != 0u) { atomicAdd(&counts[count_index(start, COUNT_NON_FINITE)], odd); }
  } else {
    adapt_block(start, lid);
  }
  report(start);
}
