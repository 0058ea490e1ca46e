// nll[start + t] = log(sum(exp(logits[t]))) - logits[t, target], and best[start + t] = the first index of the largest logit;
// 0 where a token has no target. A row a workgroup.
struct Parameters { rows: u32, width: u32, start: u32 }
#include "rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> nll: array<f32>;
@group(0) @binding(4) var<storage, read_write> best: array<u32>;

const NONE = 0xffffffffu;
const LOWEST = -3.0e38;
var<workgroup> index: atomic<u32>;

fn each(row: u32, lane: u32) {
  let base = row * p.width;
  var mine = LOWEST;
  for (var i = lane; i < p.width; i += LANES) { mine = max(mine, logits[base + i]); }
  let most = max_all(mine, lane);
  if (lane == 0u) { atomicStore(&index, NONE); }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = lane; i < p.width; i += LANES) {
    let value = logits[base + i];
    sum += exp(value - most);
    if (value == most) { atomicMin(&index, i); }
  }
  let total = sum_all(sum, lane);
  if (lane != 0u) { return; }
  let token = p.start + row;
  let target_id = tokens[token].w;
  best[token] = atomicLoad(&index);
  var loss = 0.0;
  if (target_id != NONE) { loss = log(total) - (logits[base + target_id] - most); }
  nll[token] = loss;
}
