// How many elements each model changed by more than epsilon together with others, and alone (RAM+, arXiv 2601.13572).
// Coefficients: epsilon. Words a block: 2 a model (u32): shared, alone.
#include "tile.wgsl"
#include "delta.wgsl"
#include "partials.wgsl"
#include "block_sum.wgsl"

const MODELS = 16u;
const MOST_WORDS = 2u * MODELS;
const FEWEST = 8u;

fn count4(mask: vec4<bool>) -> u32 { return dot(select(vec4u(0u), vec4u(1u), mask), vec4u(1u)); }

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, lid * OWN_ROWS * ROW_VEC8S);
  var several = array<u32, MODELS>();
  var alone = array<u32, MODELS>();
  for (var k = 0u; k < rolled(OWN_ROWS * ROW_VEC8S); k++) {
    let p = along(start, k);
    if (p.live == 0u) { break; }
    let base = load_live(p, 0u);
    let epsilon = magnitude(vec4f(coef(p, 0u)));
    var a = vec4u(0u);
    var b = vec4u(0u);
    // Bit i of an element: model i changed it.
    for (var i = 0u; i + 1u < INPUTS; i++) {
      let x = load_live(p, i + 1u);
      a |= select(vec4u(0u), vec4u(1u << i), magnitude(delta(x.a, base.a)) > epsilon);
      b |= select(vec4u(0u), vec4u(1u << i), magnitude(delta(x.b, base.b)) > epsilon);
    }
    let several_a = countOneBits(a) > vec4u(1u);
    let several_b = countOneBits(b) > vec4u(1u);
    for (var i = 0u; i + 1u < INPUTS; i++) {
      let has_a = (a & vec4u(1u << i)) != vec4u(0u);
      let has_b = (b & vec4u(1u << i)) != vec4u(0u);
      several[i] += count4(has_a & several_a) + count4(has_b & several_b);
      alone[i] += count4(has_a & !several_a) + count4(has_b & !several_b);
    }
  }
  for (var i = 0u; i + 1u < INPUTS; i++) {
    gathered[2u * i * WORKGROUP + lid] = several[i];
    gathered[(2u * i + 1u) * WORKGROUP + lid] = alone[i];
  }
  workgroupBarrier();
  let block = wid.x + wid.y * nwg.x;
  let words = 2u * (INPUTS - 1u);
  for (var w = lid; w < words && block < table[TABLE_BLOCKS]; w += WORKGROUP) {
    output[block * words + w] = block_count(w).x;
  }
}
