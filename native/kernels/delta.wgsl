// Task arithmetic (arXiv 2212.04089): out = b + (c_1 (x_1 - b) + c_2 (x_2 - b) + ...), f32, one rounding.
// The differences are added up first: they are small next to the base, and two of them may change places.
// Input 0 is the base b. Coefficients: c_1 .. c_n.
#include "tile.wgsl"
#include "store.wgsl"

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.live == 0u) { return; }
  let base = load(p, 0u);
  var x = load(p, 1u);
  var sum = Octet(prod4(x.a - base.a, coef(p, 0u)), prod4(x.b - base.b, coef(p, 0u)));
  for (var i = 2u; i < INPUTS; i++) {
    x = load(p, i);
    let c = coef(p, i - 1u);
    sum.a += prod4(x.a - base.a, c);
    sum.b += prod4(x.b - base.b, c);
  }
  store(p, Octet(base.a + sum.a, base.b + sum.b));
}
