// The gradient of attention's queries: y = scale * sum over keys of dS k (see include/attention_gradient.wgsl). For
// devices without subgroups and for heads whose size is no multiple of 4; the others run attention_queries_subgroup. A
// workgroup makes one head of one token, as many keys at a time as it has invocations.
#include "attention_gradient.wgsl"
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> keys: array<f32>;
@group(0) @binding(4) var<storage, read> values: array<f32>;
@group(0) @binding(5) var<storage, read> g: array<f32>;
@group(0) @binding(6) var<storage, read> statistics: array<vec2f>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;

override LANES: u32 = 64u; // what suits the device
var<workgroup> slopes: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let t = wid.x + wid.y * nwg.x;
  if (t >= p.tokens) { return; }
  let head = wid.z;
  let own = (t * p.heads + head) * p.size;
  let group = head / (p.heads / p.groups) * p.size;
  let stride = p.groups * p.size;
  let known = statistics[t * p.heads + head];
  let first = first_seen(t);
  for (var block = first; block <= t; block += LANES) {
    let count = min(LANES, t + 1u - block);
    if (lane < count) {
      let row = (block + lane) * stride + group;
      var score = 0.0;
      var along = 0.0;
      for (var i = 0u; i < p.size; i++) {
        score += q[own + i] * keys[row + i];
        along += g[own + i] * values[row + i];
      }
      slopes[lane] = exp(score * p.scale - known.x) * (along - known.y);
    }
    workgroupBarrier();
    for (var i = lane; i < p.size; i += LANES) {
      var element = 0.0;
      if (block > first) { element = y[own + i]; }
      for (var j = 0u; j < count; j++) { element += p.scale * slopes[j] * keys[(block + j) * stride + group + i]; }
      y[own + i] = element;
    }
    workgroupBarrier();
  }
}
