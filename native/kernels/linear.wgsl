// Weighted sum of the inputs: out = c_0 x_0 + c_1 x_1 + ... in the order of the inputs, f32, one rounding.
// Linear merge / model soup (arXiv 2203.05482); with coefficients from a host step also SLERP.
#include "tile.wgsl"
#include "store.wgsl"

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.live == 0u) { return; }
  var x = load(p, 0u);
  var sum = Octet(prod4(x.a, coef(p, 0u)), prod4(x.b, coef(p, 0u)));
  for (var i = 1u; i < INPUTS; i++) {
    x = load(p, i);
    let c = coef(p, i);
    sum.a += prod4(x.a, c);
    sum.b += prod4(x.b, c);
  }
  store(p, sum);
}
