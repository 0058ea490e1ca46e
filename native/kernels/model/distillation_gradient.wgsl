// Distillation from a teacher: with p = (1 - share) onehot(target) + share softmax(teacher) and q = softmax(logits),
// the loss -sum p log q of a row, of which losses[start + t] leaves what log(sum) + largest - own makes of it in
// float64 (see cross_entropy); and scale (q - p) in the place of logits. 1 minus a softmax at the target is the sum of
// all others, which keeps its digits where that is near 1. Zeros, and a loss of 0, where a token has no target. A row a
// workgroup.
struct Parameters { rows: u32, width: u32, start: u32, scale: f32, share: f32 }
#include "layout.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> teacher: array<f32>;
@group(0) @binding(3) var<storage, read_write> losses: array<Loss>;
@group(0) @binding(4) var<storage, read_write> logits: array<f32>;

const LOWEST = -3.0e38;
const FEW = 16u;

fn each(row: u32, lane: u32) {
  let base = row * p.width;
  let token = p.start + row;
  let target_id = tokens[token][TOKEN_TARGET];
  let asked = target_id != NO_TARGET;
  var mine = LOWEST;
  var theirs = LOWEST;
  for (var i = lane; i < p.width; i += LANES) {
    mine = max(mine, logits[base + i]);
    theirs = max(theirs, teacher[base + i]);
  }
  let most = max_all(mine, lane);
  let teacher_most = max_all(theirs, lane);
  // But for the target, of exp(logit - most), of exp(teacher - its most), and of the latter times logit - most; as in
  // cross_entropy, a few at a time, since most terms are small beside the sum.
  var sum = vec3f();
  for (var i = lane; i < p.width;) {
    var some = vec3f();
    for (var k = 0u; k < FEW; k++) {
      var few = vec3f();
      for (let end = min(i + FEW * LANES, p.width); i < end; i += LANES) {
        if (i == target_id) { continue; }
        let apart = logits[base + i] - most;
        let weight = exp(teacher[base + i] - teacher_most);
        few += vec3f(exp(apart), weight, weight * apart);
      }
      some += few;
    }
    sum += some;
  }
  let others = sum_all(sum.x, lane);
  let teacher_others = sum_all(sum.y, lane);
  let along = sum_all(sum.z, lane);
  let at = base + select(0u, target_id, asked);
  let own = logits[at] - most;
  let total = others + exp(own);
  let weight = exp(teacher[at] - teacher_most);
  let teacher_total = teacher_others + weight;
  // What follows writes what all invocations have just read.
  workgroupBarrier();
  for (var i = lane; i < p.width; i += LANES) {
    let q = exp(logits[base + i] - most) / total;
    let taught = exp(teacher[base + i] - teacher_most) / teacher_total;
    let here = i == target_id;
    let certain = here && min(q, taught) > 0.5;
    let apart = select(q - taught, teacher_others / teacher_total - others / total, certain);
    let plain = select(q, -others / total, here);
    let value = p.scale * ((1.0 - p.share) * plain + p.share * apart);
    logits[base + i] = select(0.0, value, asked);
  }
  if (lane == 0u) {
    let expected = (1.0 - p.share) * own + p.share * (along + weight * own) / teacher_total;
    losses[token] = Loss(select(1.0, total, asked), 0.0, select(0.0, expected, asked));
  }
}
