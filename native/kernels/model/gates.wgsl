// Noisy top-k gates (Shazeer et al., arXiv 1701.06538): of `noisy = logits + noise softplus(spread)`, y[0 .. experts]
// is the softmax of the `top` largest, the first where some are equal, and 0 for others; y[experts ..] is 1 for those
// and 0 for others. There are few experts, so one invocation does it all.
struct Parameters { experts: u32, top: u32 }
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> spread: array<f32>;
@group(0) @binding(3) var<storage, read> noise: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

fn noisy(e: u32) -> f32 {
  let softplus = max(spread[e], 0.0) + log(1.0 + exp(-abs(spread[e])));
  return logits[e] + noise[e] * softplus;
}

@compute @workgroup_size(1)
fn main() {
  for (var e = 0u; e < p.experts; e++) { y[p.experts + e] = 0.0; }
  var most = 0.0;
  for (var k = 0u; k < p.top; k++) {
    var best = p.experts;
    for (var e = 0u; e < p.experts; e++) {
      if (y[p.experts + e] == 0.0 && (best == p.experts || noisy(e) > noisy(best))) { best = e; }
    }
    if (best == p.experts) { break; }
    y[p.experts + best] = 1.0;
    if (k == 0u) { most = noisy(best); }
  }
  var sum = 0.0;
  for (var e = 0u; e < p.experts; e++) {
    y[e] = y[p.experts + e] * exp(min(noisy(e) - most, 0.0));
    sum += y[e];
  }
  for (var e = 0u; e < p.experts; e++) { y[e] /= sum; }
}
