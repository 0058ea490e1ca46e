// y = x / (1 - share) for elements that stay, 0 for those that are lost (+ y where `add` is not 0). Element i is lost
// where word i % 4 of Philox at counter (i / 4, adapter, step, micro_batch), keyed by the seed, is below `threshold`,
// which is share * 2^32: the backward pass draws the same mask again.
struct Parameters {
  vec4s: u32, threshold: u32, scale: f32, add: u32, adapter: u32, step: u32, micro_batch: u32,
  seed_low: u32, seed_high: u32,
}
#include "philox.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lane: u32) {
  let i = (wid.x + wid.y * nwg.x) * 64u + lane;
  if (i >= p.vec4s) { return; }
  let words = philox(vec4u(i, p.adapter, p.step, p.micro_batch), vec2u(p.seed_low, p.seed_high));
  let value = select(vec4f(), p.scale * x[i], words >= vec4u(p.threshold));
  if (p.add != 0u) { y[i] += value; } else { y[i] = value; }
}
