// The model where it differs by enough from the base, and the base elsewhere. Input 0 is the base, input 1 the model.
// Coefficients: the smallest key (see include/keys.wgsl) of the elements that are the model's.
#include "tile.wgsl"
#include "store.wgsl"
#include "delta.wgsl"
#include "keys.wgsl"

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u, @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.live == 0u) { return; }
  let threshold = vec4u(coef_bits(p, WEIGHTED));
  let key = keys(p, 0u);
  let base = load(p, 0u);
  let x = load(p, 1u);
  store(p, Octet(select(base.a, x.a, key.a >= threshold), select(base.b, x.b, key.b >= threshold)));
}
