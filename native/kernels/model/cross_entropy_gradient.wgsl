// The gradient of scale * loss of a row's target with respect to its logits, in their place: scale (softmax - 1 at the
// target), where losses[start + t] has the largest logit. 1 - p of the target is the sum of all others, which keeps its
// digits where p is near 1. Zeros where a token has no target. A row a workgroup.
struct Parameters { rows: u32, width: u32, start: u32, scale: f32 }
#include "layout.wgsl"
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> tokens: array<vec4u>;
@group(0) @binding(2) var<storage, read> losses: array<Loss>;
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;

const FEW = 16u;

fn each(row: u32, lane: u32) {
  let base = row * p.width;
  let token = p.start + row;
  let own = tokens[token][TOKEN_TARGET];
  let most = losses[token].largest;
  var sum = 0.0;
  for (var i = lane; i < p.width;) {
    // As in cross_entropy: most terms are small beside the sum.
    var some = 0.0;
    for (var k = 0u; k < FEW; k++) {
      var few = 0.0;
      for (let end = min(i + FEW * LANES, p.width); i < end; i += LANES) {
        if (i != own) { few += exp(logits[base + i] - most); }
      }
      some += few;
    }
    sum += some;
  }
  let others = sum_all(sum, lane);
  let asked = own != NO_TARGET;
  let total = others + exp(logits[base + select(0u, own, asked)] - most);
  // What follows writes what all invocations have just read.
  workgroupBarrier();
  let each = select(0.0, p.scale / total, asked);
  for (var i = lane; i < p.width; i += LANES) {
    logits[base + i] = each * select(exp(logits[base + i] - most), -others, i == own);
  }
}
