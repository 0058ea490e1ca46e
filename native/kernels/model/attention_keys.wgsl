// The gradients of attention's keys and values: y = scale * sum of dS q and z = sum of P g (see
// include/attention_gradient.wgsl), over the tokens that see a row and the heads of its group. For devices without
// subgroups and for heads whose size is no multiple of 4; the others run attention_keys_subgroup. A workgroup makes one
// KV head of one row, as many queries at a time as it has invocations.
#include "attention_gradient.wgsl"
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> keys: array<f32>;
@group(0) @binding(4) var<storage, read> values: array<f32>;
@group(0) @binding(5) var<storage, read> g: array<f32>;
@group(0) @binding(6) var<storage, read> statistics: array<vec2f>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;
@group(0) @binding(8) var<storage, read_write> z: array<f32>;

override LANES: u32 = 64u; // what suits the device
var<workgroup> weights: array<vec2f, LANES>; // (P, dS)

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let row = wid.x + wid.y * nwg.x;
  if (row >= p.tokens) { return; }
  let own = (row * p.groups + wid.z) * p.size;
  let across = p.heads / p.groups;
  let heads = wid.z * across;
  let queries = (end_of_seeing(row) - row) * across;
  for (var block = 0u; block < queries; block += LANES) {
    let count = min(LANES, queries - block);
    if (lane < count) {
      let query = (row + (block + lane) / across) * p.heads + heads + (block + lane) % across;
      var score = 0.0;
      var along = 0.0;
      for (var i = 0u; i < p.size; i++) {
        score += q[query * p.size + i] * keys[own + i];
        along += g[query * p.size + i] * values[own + i];
      }
      let weight = exp(score * p.scale - statistics[query].x);
      weights[lane] = vec2f(weight, weight * (along - statistics[query].y));
    }
    workgroupBarrier();
    for (var i = lane; i < p.size; i += LANES) {
      var key = 0.0;
      var value = 0.0;
      if (block > 0u) {
        key = y[own + i];
        value = z[own + i];
      }
      for (var j = 0u; j < count; j++) {
        let query = (row + (block + j) / across) * p.heads + heads + (block + j) % across;
        key += p.scale * weights[j].y * q[query * p.size + i];
        value += weights[j].x * g[query * p.size + i];
      }
      y[own + i] = key;
      z[own + i] = value;
    }
    workgroupBarrier();
  }
}
