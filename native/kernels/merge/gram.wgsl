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
// Vectors are taken three by three, so that what is loaded serves nine products.
const SIDE = 3u;
override GROUPS: u32 = (VECTORS + SIDE - 1u) / SIDE;
const MOST_WORDS = SIDE * SIDE;
const FEWEST = 8u;

// The vectors from SIDE * group on. What is past the last one is not looked at.
struct Three { x: Vec8, y: Vec8, z: Vec8 }
// Sums of products, by vector of the one group and of the other.
struct Nine { xx: vec4f, xy: vec4f, xz: vec4f, yx: vec4f, yy: vec4f, yz: vec4f, zx: vec4f, zy: vec4f, zz: vec4f }

fn vector(p: Place, base: Vec8, i: u32) -> Vec8 {
  let v = load_live(p, min(i + BASE, INPUTS - 1u));
  if (BASE == 0u) { return v; }
  return Vec8(delta(v.a, base.a), delta(v.b, base.b));
}

fn three(p: Place, base: Vec8, group: u32) -> Three {
  var t = Three(vector(p, base, SIDE * group), Vec8(), Vec8());
  if (VECTORS > 1u) { t.y = vector(p, base, SIDE * group + 1u); }
  if (VECTORS > 2u) { t.z = vector(p, base, SIDE * group + 2u); }
  return t;
}

fn products(sum: ptr<function, vec4f>, x: Vec8, y: Vec8) {
  *sum += exact4(x.a * y.a);
  *sum += exact4(x.b * y.b);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let block = wid.x + wid.y * nwg.x;
  let start = place(wid, nwg, lid * OWN_ROWS * ROW_VEC8S);
  for (var g = 0u; g < rolled_together(GROUPS); g++) {
    for (var h = 0u; h <= g; h++) {
      var x = vec3f(0.0);
      var y = vec3f(0.0);
      var z = vec3f(0.0);
      for (var row = 0u; row < rolled(OWN_ROWS); row++) {
        var s = Nine();
        for (var k = 0u; k < rolled(ROW_VEC8S); k++) {
          let p = along(start, row * ROW_VEC8S + k);
          if (p.live == 0u) { break; }
          var base = Vec8();
          if (BASE == 1u) { base = load_live(p, 0u); }
          let a = three(p, base, g);
          var b = a;
          if (g != h) { b = three(p, base, h); }
          products(&s.xx, a.x, b.x);
          products(&s.yx, a.y, b.x);
          products(&s.yy, a.y, b.y);
          products(&s.zx, a.z, b.x);
          products(&s.zy, a.z, b.y);
          products(&s.zz, a.z, b.z);
          if (GROUPS > 1u) {
            products(&s.xy, a.x, b.y);
            products(&s.xz, a.x, b.z);
            products(&s.yz, a.y, b.z);
          }
        }
        x += vec3f(sum4(s.xx), sum4(s.xy), sum4(s.xz));
        y += vec3f(sum4(s.yx), sum4(s.yy), sum4(s.yz));
        z += vec3f(sum4(s.zx), sum4(s.zy), sum4(s.zz));
      }
      for (var j = 0u; j < SIDE; j++) {
        gathered[j * WORKGROUP + lid] = bitcast<u32>(x[j]);
        gathered[(SIDE + j) * WORKGROUP + lid] = bitcast<u32>(y[j]);
        gathered[(2u * SIDE + j) * WORKGROUP + lid] = bitcast<u32>(z[j]);
      }
      workgroupBarrier();
      for (var w = lid; w < MOST_WORDS; w += WORKGROUP) {
        let i = SIDE * g + w / SIDE;
        let j = SIDE * h + w % SIDE;
        if (i < VECTORS && j <= i && block < table[TABLE_BLOCKS]) {
          output[block * (VECTORS * (VECTORS + 1u) / 2u) + i * (i + 1u) / 2u + j] = bitcast<u32>(block_sum(w));
        }
      }
      if (GROUPS > 1u) { workgroupBarrier(); }
    }
  }
}
