// Task arithmetic (arXiv 2212.04089): out = b + c_1 (x_1 - b) + c_2 (x_2 - b) + ..., f32, one rounding.
// Input 0 is the base b. Coefficients: c_1 .. c_n.
#include "tile.wgsl"
#include "store.wgsl"

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.live == 0u) { return; }
  let base = load(p, 0u);
  var sum = base;
  for (var i = 1u; i < INPUTS; i++) {
    let x = load(p, i);
    let c = coef(p, i - 1u);
    sum.a += prod4(x.a - base.a, c);
    sum.b += prod4(x.b - base.b, c);
  }
  store(p, sum);
}
