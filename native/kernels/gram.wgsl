// Inner products of every two vectors among the inputs (their Gram matrix): whatever is computed in the span of the
// inputs (norms, angles, distances, iterative means) needs nothing else of a tensor. BASE 1: the vectors are the
// differences from input 0.
// Words a block (f32): the lower triangle, row by row: v0.v0, v1.v0, v1.v1, v2.v0, ...
#include "tile.wgsl"
#include "delta.wgsl"
#include "partials.wgsl"
#include "block_sum.wgsl"

override BASE: u32 = 0u;
override VECTORS: u32 = INPUTS - BASE;
// Vectors are taken two by two, so that what is loaded serves two products.
override PAIRS: u32 = (VECTORS + 1u) / 2u;
const MOST_WORDS = 4u;
const FEWEST = 8u;

// The vectors 2 * pair and, where there is one, 2 * pair + 1.
struct Two { x: Octet, y: Octet }

fn two(p: Place, base: Octet, pair: u32) -> Two {
  let first = 2u * pair + BASE;
  var t = Two(load_live(p, first), load_live(p, min(first + 1u, INPUTS - 1u)));
  if (BASE == 1u) {
    t.x = Octet(delta(t.x.a, base.a), delta(t.x.b, base.b));
    t.y = Octet(delta(t.y.a, base.a), delta(t.y.b, base.b));
  }
  return t;
}

fn products(sum: ptr<function, vec4f>, x: Octet, y: Octet) {
  *sum += exact4(x.a * y.a);
  *sum += exact4(x.b * y.b);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let block = wid.x + wid.y * nwg.x;
  let start = place(wid, nwg, lid * OWN_ROWS * ROW_OCTETS);
  for (var g = 0u; g < rolled_together(PAIRS); g++) {
    for (var h = 0u; h <= g; h++) {
      var sums = vec4f(0.0);
      for (var row = 0u; row < rolled(OWN_ROWS); row++) {
        var xx = vec4f(0.0);
        var xy = vec4f(0.0);
        var yx = vec4f(0.0);
        var yy = vec4f(0.0);
        for (var k = 0u; k < rolled(ROW_OCTETS); k++) {
          let p = along(start, row * ROW_OCTETS + k);
          if (p.live == 0u) { break; }
          var base = Octet();
          if (BASE == 1u) { base = load_live(p, 0u); }
          let a = two(p, base, g);
          var b = a;
          if (g != h) { b = two(p, base, h); }
          products(&xx, a.x, b.x);
          products(&yx, a.y, b.x);
          products(&yy, a.y, b.y);
          if (PAIRS > 1u) { products(&xy, a.x, b.y); }
        }
        sums += vec4f(sum4(xx), sum4(xy), sum4(yx), sum4(yy));
      }
      for (var w = 0u; w < 4u; w++) { gathered[w * WORKGROUP + lid] = bitcast<u32>(sums[w]); }
      workgroupBarrier();
      let i = 2u * g + lid / 2u;
      let j = 2u * h + lid % 2u;
      if (lid < 4u && i < VECTORS && j <= i && block < table[1]) {
        output[block * (VECTORS * (VECTORS + 1u) / 2u) + i * (i + 1u) / 2u + j] = bitcast<u32>(block_sum(lid));
      }
      if (PAIRS > 1u) { workgroupBarrier(); }
    }
  }
}
