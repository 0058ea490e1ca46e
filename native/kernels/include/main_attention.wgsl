// Attention with grouped heads: y = softmax(scale * q k) v over the cache rows of the token's own sequence, from its
// first (or the last `window` of them, where that is not 0) to the token's own; all `both` rows, where that is not 0. A
// workgroup makes one head of one token with an online softmax: as many keys at a time as it has invocations, a score
// each; then each of them adds up some elements of v, in y itself.
// `finish` says what becomes of the largest score of a query and of the sum of exp(score - largest).
#include "layout.wgsl"
// groups: KV heads
struct Parameters { tokens: u32, heads: u32, groups: u32, size: u32, scale: f32, window: u32, both: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> keys: array<f32>;
@group(0) @binding(4) var<storage, read> values: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;

override LANES: u32 = 64u; // what suits the device
const LOWEST = -3.0e38;
var<workgroup> scores: array<f32, LANES>;
var<workgroup> weights: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let t = wid.x + wid.y * nwg.x;
  if (t >= p.tokens) { return; }
  let head = wid.z;
  let own = (t * p.heads + head) * p.size;
  let group = head / (p.heads / p.groups) * p.size;
  let stride = p.groups * p.size;
  var first = tokens[t][TOKEN_START];
  let end = select(tokens[t][TOKEN_ROW] + 1u, first + p.both, p.both > 0u);
  if (p.window > 0u && end - first > p.window) { first = end - p.window; }
  var most = LOWEST;
  var total = 0.0;
  for (var block = first; block < end; block += LANES) {
    let count = min(LANES, end - block);
    if (lane < count) {
      let row = (block + lane) * stride + group;
      var dot = 0.0;
      for (var i = 0u; i < p.size; i++) { dot += q[own + i] * keys[row + i]; }
      scores[lane] = dot * p.scale;
    }
    workgroupBarrier();
    // Every invocation finds the maximum for itself: cheaper than a tree of barriers.
    let before = most;
    for (var j = 0u; j < count; j++) { most = max(most, scores[j]); }
    if (lane < count) { weights[lane] = exp(scores[lane] - most); }
    let kept = exp(before - most);
    workgroupBarrier();
    var sum = 0.0;
    for (var j = 0u; j < count; j++) { sum += weights[j]; }
    total = total * kept + sum;
    let last = select(1.0, 1.0 / total, block + LANES >= end);
    for (var i = lane; i < p.size; i += LANES) {
      var element = 0.0;
      if (block > first) { element = y[own + i] * kept; }
      for (var j = 0u; j < count; j++) { element += weights[j] * values[(block + j) * stride + group + i]; }
      y[own + i] = element * last;
    }
  }
  if (lane == 0u) { finish(t * p.heads + head, most, total); }
}
