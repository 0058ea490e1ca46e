// Weighted sum of the inputs: out = c_0 x_0 + c_1 x_1 + ... in the order of the inputs, f32, one rounding.
// Linear merge / model soup (arXiv 2203.05482); with coefficients from a host step also SLERP.
// An invocation takes four octets and looks up the first two inputs once for all of them: it is the look-ups that cost.
#include "tile.wgsl"
#include "store.wgsl"

struct Terms { source0: u32, source1: u32, c0: f32, c1: f32 }

fn times(x: Octet, c: f32) -> Octet { return Octet(prod4(x.a, c), prod4(x.b, c)); }
fn plus(x: Octet, y: Octet) -> Octet { return Octet(x.a + y.a, x.b + y.b); }

fn total(p: Place, terms: Terms) -> Octet {
  var sum = times(load_from(terms.source0, p.octet), terms.c0);
  if (INPUTS > 1u) { sum = plus(sum, times(load_from(terms.source1, p.octet), terms.c1)); }
  for (var i = 2u; i < INPUTS; i++) { sum = plus(sum, times(load(p, i), coef(p, i))); }
  return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.live == 0u) { return; }
  let terms = Terms(source(p, 0u), source(p, 1u), coef(p, 0u), coef(p, 1u));
  for (var k = 0u; k < 4u; k++) {
    let q = along(p, 64u * k);
    if (q.live != 0u) { store(q, total(q, terms)); }
  }
}
