// What the loss of a token is made of, in float64 by the caller: losses[start + t] = (sum(exp(logits[t] - largest)),
// the largest logit, that of the target), so that the loss is log(sum) + largest - target; (1, 0, 0) where a token has
// no target. And best[start + t] = the first index of the largest logit. A row a workgroup.
struct Parameters { rows: u32, width: u32, start: u32 }
#include "layout.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read_write> losses: array<Loss>;
@group(0) @binding(4) var<storage, read_write> best: array<u32>;

const LOWEST = -3.0e38;
// Most terms are smaller than what rounding takes from a sum that has the largest of them, and tens of thousands of
// them would be lost one by one. So a few are added up, then a few of these sums, and then all of those.
const FEW = 16u;
var<workgroup> index: atomic<u32>;

fn each(row: u32, lane: u32) {
  let base = row * p.width;
  var mine = LOWEST;
  for (var i = lane; i < p.width; i += LANES) { mine = max(mine, logits[base + i]); }
  let most = max_all(mine, lane);
  if (lane == 0u) { atomicStore(&index, 0xffffffffu); }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = lane; i < p.width;) {
    var some = 0.0;
    for (var k = 0u; k < FEW; k++) {
      var few = 0.0;
      for (let end = min(i + FEW * LANES, p.width); i < end; i += LANES) {
        let value = logits[base + i];
        few += exp(value - most);
        if (value == most) { atomicMin(&index, i); }
      }
      some += few;
    }
    sum += some;
  }
  let total = sum_all(sum, lane);
  if (lane != 0u) { return; }
  let token = p.start + row;
  let target_id = tokens[token][TOKEN_TARGET];
  best[token] = atomicLoad(&index);
  let asked = target_id != NO_TARGET;
  let own = logits[base + select(0u, target_id, asked)];
  losses[token] = Loss(select(1.0, total, asked), select(0.0, most, asked), select(0.0, own, asked));
}
