// What the trimmed deltas of a tensor tell before they are merged: L1 norms before and after the trim (to restore the
// norm) and how many elections each sign wins (to settle the drawn ones). Coefficients: as for `ties`; the scale is not
// read. Words a block: 2 a model (f32): sum|d|, sum|d| of the kept; then 2 (u32): elements with a positive sum of
// deltas, with a negative one.
#include "tile.wgsl"
#include "delta.wgsl"
#include "partials.wgsl"
#include "trim.wgsl"

const MODELS = 16u;
var<workgroup> rows: array<vec2f, 64>;
var<workgroup> won: array<vec2u, 64>;

fn count4(mask: vec4<bool>) -> u32 { return dot(select(vec4u(0u), vec4u(1u), mask), vec4u(1u)); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let words = band_words() + 1u;
  var norms = array<vec2f, MODELS>();
  var wins = vec2u(0u);
  for (var k = 0u; k < ROW_OCTETS; k++) {
    let p = place(wid, nwg, lid * ROW_OCTETS + k);
    if (p.live == 0u) { break; }
    let base = load_live(p, 0u);
    var sum = Octet();
    for (var i = 0u; i + 1u < INPUTS; i++) {
      let x = load_live(p, i + 1u);
      let a = delta(x.a, base.a);
      let b = delta(x.b, base.b);
      let kept = band(p, words * i);
      let c = trim(a, kept, 0u);
      let d = trim(b, kept, 4u);
      norms[i] += vec2f(sum4(abs(a)), sum4(abs(c)));
      norms[i] += vec2f(sum4(abs(b)), sum4(abs(d)));
      sum.a += c;
      sum.b += d;
    }
    let s = bitcast<vec4f>(flush(bitcast<vec4u>(sum.a)));
    let t = bitcast<vec4f>(flush(bitcast<vec4u>(sum.b)));
    wins += vec2u(count4(s > vec4f(0.0)) + count4(t > vec4f(0.0)), count4(s < vec4f(0.0)) + count4(t < vec4f(0.0)));
  }
  let block = wid.x + wid.y * nwg.x;
  let first = block * 2u * INPUTS;
  won[lid] = wins;
  for (var i = 0u; i + 1u < INPUTS; i++) {
    rows[lid] = norms[i];
    workgroupBarrier();
    if (lid == 0u && block < table[1]) {
      var sum = vec2f(0.0);
      for (var r = 0u; r < ROWS; r++) { sum += rows[r]; }
      output[first + 2u * i] = bitcast<u32>(sum.x);
      output[first + 2u * i + 1u] = bitcast<u32>(sum.y);
    }
    workgroupBarrier();
  }
  if (lid == 0u && block < table[1]) {
    var sum = vec2u(0u);
    for (var r = 0u; r < ROWS; r++) { sum += won[r]; }
    output[first + 2u * (INPUTS - 1u)] = sum.x;
    output[first + 2u * INPUTS - 1u] = sum.y;
  }
}
