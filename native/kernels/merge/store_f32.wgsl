// Stores the elements of the inputs as they are, as f32 words: for CPU steps that need every one of them (regmean).
// Words a block: the 2,048 elements of input 0, those of input 1, and so on; 0 past the end of the tensor.
// Coefficients: none that are read.
#include "tile.wgsl"
#include "partials.wgsl"

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let p = place(wid, nwg, lid);
  if (p.block >= table[TABLE_BLOCKS]) { return; }
  for (var i = 0u; i < INPUTS; i++) {
    var x = Vec8();
    if (p.live != 0u) { x = load_live(p, i); }
    let at = (p.block * INPUTS + i) * BLOCK + 8u * lid;
    for (var e = 0u; e < 4u; e++) {
      output[at + e] = bitcast<u32>(x.a[e]);
      output[at + 4u + e] = bitcast<u32>(x.b[e]);
    }
  }
}
