// How two versions of a tensor differ, 8 words a block: sum|d|, sum d^2, a.a, b.b, a.b (f32), elements with
// |d| > 1e-5 (u32), the largest |d| (f32 bits), elements where a or b is NaN or Inf (u32; left out of the rest).
#include "tile.wgsl"
#include "partials.wgsl"
#include "block_sum.wgsl"

const WORDS = 8u;
const FLOATS = 5u;
const MAXIMUM = 6u;
const CHANGED = 0x3727c5acu; // 1e-5f
const MOST_WORDS = WORDS;
const FEWEST = 8u;

struct Row { abs: vec4f, squares: vec4f, aa: vec4f, bb: vec4f, ab: vec4f, changed: vec4u, top: vec4u, bad: vec4u }

fn add4(v: vec4u) -> u32 { return v.x + v.y + v.z + v.w; }

fn take(row: ptr<function, Row>, x: vec4f, y: vec4f) {
  let inf = vec4u(0x7f800000u);
  let bad = ((bitcast<vec4u>(x) & inf) == inf) | ((bitcast<vec4u>(y) & inf) == inf);
  let a = select(x, vec4f(0.0), bad);
  let b = select(y, vec4f(0.0), bad);
  let bits = flush(bitcast<vec4u>(b - a)) & vec4u(0x7fffffffu);
  let d = bitcast<vec4f>(bits);
  (*row).abs += d;
  (*row).squares += exact4(d * d);
  (*row).aa += exact4(a * a);
  (*row).bb += exact4(b * b);
  (*row).ab += exact4(a * b);
  (*row).changed += select(vec4u(0u), vec4u(1u), bits > vec4u(CHANGED));
  (*row).top = max((*row).top, bits);
  (*row).bad += select(vec4u(0u), vec4u(1u), bad);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, lid * OWN_ROWS * ROW_VEC8S);
  let source0 = source(start, 0u);
  let source1 = source(start, 1u);
  var sums = array<f32, FLOATS>();
  var changed = 0u;
  var top = vec4u(0u);
  var bad = 0u;
  for (var r = 0u; r < rolled(OWN_ROWS); r++) {
    var row = Row();
    for (var k = 0u; k < ROW_VEC8S; k++) {
      let p = along(start, r * ROW_VEC8S + k);
      if (p.live == 0u) { break; }
      let x = load_live_from(p, source0);
      let y = load_live_from(p, source1);
      take(&row, x.a, y.a);
      take(&row, x.b, y.b);
    }
    sums[0] += sum4(row.abs);
    sums[1] += sum4(row.squares);
    sums[2] += sum4(row.aa);
    sums[3] += sum4(row.bb);
    sums[4] += sum4(row.ab);
    changed += add4(row.changed);
    top = max(top, row.top);
    bad += add4(row.bad);
  }
  for (var w = 0u; w < FLOATS; w++) { gathered[w * WORKGROUP + lid] = bitcast<u32>(sums[w]); }
  gathered[FLOATS * WORKGROUP + lid] = changed;
  gathered[MAXIMUM * WORKGROUP + lid] = max(max(top.x, top.y), max(top.z, top.w));
  gathered[(WORDS - 1u) * WORKGROUP + lid] = bad;
  workgroupBarrier();
  let block = wid.x + wid.y * nwg.x;
  if (lid >= WORDS || block >= table[TABLE_BLOCKS]) { return; }
  let count = block_count(lid);
  var result = select(count.x, count.y, lid == MAXIMUM);
  if (lid < FLOATS) { result = bitcast<u32>(block_sum(lid)); }
  output[block * WORDS + lid] = result;
}
