// Task arithmetic (arXiv 2212.04089): out = b + (c_1 (x_1 - b) + c_2 (x_2 - b) + ...), f32, one rounding.
// The differences are added up first: they are small next to the base, and two of them may change places.
// Input 0 is the base b. Coefficients: c_1 .. c_n.
#include "tile.wgsl"
#include "store.wgsl"

struct First { base: u32, source: u32, c: f32 }

fn weighted(x: Octet, base: Octet, c: f32) -> Octet { return Octet(prod4(x.a - base.a, c), prod4(x.b - base.b, c)); }

fn merge(p: Place, first: First) {
  if (p.live == 0u) { return; }
  let base = load_from(first.base, p.octet);
  var sum = weighted(load_from(first.source, p.octet), base, first.c);
  for (var i = 2u; i < INPUTS; i++) {
    let more = weighted(load(p, i), base, coef(p, i - 1u));
    sum = Octet(sum.a + more.a, sum.b + more.b);
  }
  store(p, Octet(base.a + sum.a, base.b + sum.b));
}

// An invocation takes four octets and looks up the first model once for all of them.
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.live == 0u) { return; }
  let first = First(source(p, 0u), source(p, 1u), coef(p, 0u));
  for (var k = 0u; k < 4u; k++) { merge(along(p, 64u * k), first); }
}
