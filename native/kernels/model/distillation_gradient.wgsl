// Distillation from a teacher: with q = softmax(logits), t = softmax(teacher) and (a, b) = shares[start + t] of a row,
// the loss -(a log q[target] + b sum t log q), less b times the entropy of t where `divergence` is not 0.
// losses[start + t] has what it is made of; scale times its gradient, a (q - onehot(target)) + b (q - t), takes the
// place of logits. 1 minus a softmax at the target is the sum of all others, which keeps its digits where that is near
// 1. A token without a target, whose a is 0, has its likeliest id for one. Where both are 0, so are loss and gradient.
// A row a workgroup.
struct Parameters { rows: u32, width: u32, start: u32, scale: f32, divergence: u32 }
#include "layout.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> shares: array<vec2f>;
@group(0) @binding(3) var<storage, read> teacher: array<f32>;
@group(0) @binding(4) var<storage, read_write> losses: array<TaughtLoss>;
@group(0) @binding(5) var<storage, read_write> logits: array<f32>;

const LOWEST = -3.0e38;
const FEW = 16u;
var<workgroup> index: atomic<u32>;

fn each(row: u32, lane: u32) {
  let base = row * p.width;
  let token = p.start + row;
  let asked = tokens[token][TOKEN_TARGET];
  let share = shares[token];
  var mine = LOWEST;
  var theirs = LOWEST;
  for (var i = lane; i < p.width; i += LANES) {
    mine = max(mine, logits[base + i]);
    theirs = max(theirs, teacher[base + i]);
  }
  let most = max_all(mine, lane);
  let teacher_most = max_all(theirs, lane);
  if (lane == 0u) { atomicStore(&index, asked); }
  workgroupBarrier();
  if (asked == NO_TARGET) {
    for (var i = lane; i < p.width; i += LANES) { if (logits[base + i] == most) { atomicMin(&index, i); } }
  }
  workgroupBarrier();
  let target_id = atomicLoad(&index);
  let entropy = select(0.0, 1.0, p.divergence != 0u);
  // But for the target, of exp(logit - most), of exp(teacher - its most), and of the latter times what is compared; as
  // in cross_entropy, a few at a time, since most terms are small beside the sum.
  var sum = vec3f();
  for (var i = lane; i < p.width;) {
    var some = vec3f();
    for (var k = 0u; k < FEW; k++) {
      var few = vec3f();
      for (let end = min(i + FEW * LANES, p.width); i < end; i += LANES) {
        if (i == target_id) { continue; }
        let apart = logits[base + i] - most;
        let taught = teacher[base + i] - teacher_most;
        let weight = exp(taught);
        few += vec3f(exp(apart), weight, weight * (apart - entropy * taught));
      }
      some += few;
    }
    sum += some;
  }
  let others = sum_all(sum.x, lane);
  let teacher_others = sum_all(sum.y, lane);
  let along = sum_all(sum.z, lane);
  let own = logits[base + target_id] - most;
  let taught = teacher[base + target_id] - teacher_most;
  let weight = exp(taught);
  let total = others + exp(own);
  let teacher_total = teacher_others + weight;
  // What follows writes what all invocations have just read.
  workgroupBarrier();
  for (var i = lane; i < p.width; i += LANES) {
    let q = exp(logits[base + i] - most) / total;
    let t = exp(teacher[base + i] - teacher_most) / teacher_total;
    let here = i == target_id;
    let certain = here && min(q, t) > 0.5;
    let apart = select(q - t, teacher_others / teacher_total - others / total, certain);
    let plain = select(q, -others / total, here);
    logits[base + i] = p.scale * (share.x * plain + share.y * apart);
  }
  if (lane == 0u) {
    let expected = (along + weight * (own - entropy * taught)) / teacher_total;
    losses[token] = TaughtLoss(total, teacher_total, share.x * own + share.y * expected);
  }
}
