// Inner products of every two vectors among the inputs, apart for every row or column of the tensor (see gram.wgsl and
// include/lines.wgsl). BASE 1: the vectors are the differences from input 0.
// Words a block (f32): for each pair of vectors (v0.v0, v1.v0, v1.v1, ...) one a slot. Slot s of a block is its s-th
// row, or column s; of columns wider than a block, its s-th element.
#include "tile.wgsl"
#include "delta.wgsl"
#include "partials.wgsl"
#include "lines.wgsl"

override BASE: u32 = 0u;
override GIVEN: u32 = DTYPE_MIXED; // code of the type of the vectors; mixed: the inputs'
override VECTORS: u32 = INPUTS - BASE;
const CHUNK = 32u; // elements an invocation takes of long rows: they lie in two rows at most
var<workgroup> heads: array<f32, 64>;
var<workgroup> tails: array<f32, 64>;

fn vector(p: Place, i: u32) -> Vec8 { return live(p, load_as(source(p, i), p.vec8, GIVEN)); }

fn product(p: Place, i: u32, j: u32) -> Vec8 {
  var x = vector(p, i + BASE);
  var y = vector(p, j + BASE);
  if (BASE == 1u) {
    let base = vector(p, 0u);
    x = Vec8(delta(x.a, base.a), delta(x.b, base.b));
    y = Vec8(delta(y.a, base.a), delta(y.b, base.b));
  }
  return Vec8(exact4(x.a * y.a), exact4(x.b * y.b));
}

fn pick(v: Vec8, e: u32) -> f32 {
  let four = select(v.a, v.b, (e & 4u) != 0u);
  return select(select(four.x, four.y, (e & 1u) != 0u), select(four.z, four.w, (e & 1u) != 0u), (e & 2u) != 0u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, 0u);
  let block = start.block;
  var elements = 0u; // of this block
  var offset = 0u;   // of its first element in its line
  var size = 1u;
  if (start.live != 0u) {
    elements = min(BLOCK, table[start.rec + RECORD_ELEMENTS] - 8u * start.vec8);
    size = line_size(start);
    offset = (table[part(start)] + 8u * start.vec8) % size;
  }
  var slots = min(size, BLOCK);
  if (ACROSS == 0u) { slots = (BLOCK - 2u + size) / size + 1u; }
  let long = ACROSS == 0u && size >= CHUNK;
  var pair = 0u;
  for (var i = 0u; i < VECTORS; i++) {
    for (var j = 0u; j <= i; j++) {
      let first = (block * VECTORS * (VECTORS + 1u) / 2u + pair) * slots;
      pair++;
      if (long) {
        let end = ((offset + CHUNK * lid) / size + 1u) * size - offset - CHUNK * lid; // where the next row begins
        var head = vec4f(0.0);
        var tail = vec4f(0.0);
        for (var k = 0u; k < ROW_VEC8S; k++) {
          let p = place(wid, nwg, lid * ROW_VEC8S + k);
          if (p.live == 0u) { break; }
          let v = product(p, i, j);
          let in_a = (vec4u(8u * k) + vec4u(0u, 1u, 2u, 3u)) < vec4u(end);
          let in_b = (vec4u(8u * k) + vec4u(4u, 5u, 6u, 7u)) < vec4u(end);
          head += select(vec4f(0.0), v.a, in_a);
          head += select(vec4f(0.0), v.b, in_b);
          tail += select(v.a, vec4f(0.0), in_a);
          tail += select(v.b, vec4f(0.0), in_b);
        }
        heads[lid] = sum4(head);
        tails[lid] = sum4(tail);
      }
      workgroupBarrier();
      if (long) {
        for (var s = lid; s < slots; s += 64u) {
          var sum = 0.0;
          for (var r = 0u; r < ROWS; r++) {
            let row = (offset + CHUNK * r) / size;
            if (row == s) { sum += heads[r]; }
            if (row + 1u == s) { sum += tails[r]; }
          }
          output[first + s] = bitcast<u32>(sum);
        }
      } else if (elements != 0u) {
        for (var s = lid; s < slots; s += 64u) {
          // The elements of slot s: from `e` on, `step` apart.
          var e = s;
          var last = min(elements, s + 1u);
          var step = 1u;
          if (ACROSS == 0u) {
            e = max(s * size, offset) - offset;
            last = min(elements, max((s + 1u) * size, offset) - offset);
          } else if (size < BLOCK) {
            e = (s + size - offset) % size;
            last = elements;
            step = size;
          }
          var sum = 0.0;
          for (; e < last; e += step) {
            let p = place(wid, nwg, e / 8u);
            sum += pick(product(p, i, j), e);
          }
          output[first + s] = bitcast<u32>(sum);
        }
      }
      workgroupBarrier();
    }
  }
}
