// Kernels that store a vec8 from what its inputs have there: each defines `merge`, which ends in `store`.
#include "tile.wgsl"
#include "store.wgsl"

// Invocations a block, what suits the device: software drivers pay for each one, a GPU idles where there are few.
override LANES: u32 = 64u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, lid);
  for (var k = 0u; k < rolled(BLOCK_VEC8S / LANES); k++) {
    let p = along(start, LANES * k);
    if (p.live != 0u) { merge(p); }
  }
}
