// First step of the exact selection by magnitude: 32 keys of |x_i - b| a block and model, from 4 vec8s whose places
// change from block to block. They only aim the bracket of `select`, so they cannot change a result.
// Words a block: 32 a model; 0 where there is no element.
#include "tile.wgsl"
#include "delta.wgsl"
#include "keys.wgsl"

@group(0) @binding(1) var<storage, read_write> output: array<u32>;

const VEC8S = 4u;
const STRIDE = 64u; // vec8s of a block / VEC8S

@compute @workgroup_size(4)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let block = wid.x + wid.y * nwg.x;
  let shift = (block * 0x9e3779b9u + lid * 0x85ebca6bu) >> 26u;
  let p = place(wid, nwg, lid * STRIDE + shift);
  if (p.live == 0u) { return; }
  for (var s = 0u; s < selections(); s++) {
    let key = keys(p, s);
    let a = select(vec4u(0u), key.a, live4(p.live, 0u));
    let b = select(vec4u(0u), key.b, live4(p.live, 4u));
    let first = (block * selections() + s) * SAMPLE_WORDS + lid * 8u;
    output[first] = a.x;
    output[first + 1u] = a.y;
    output[first + 2u] = a.z;
    output[first + 3u] = a.w;
    output[first + 4u] = b.x;
    output[first + 5u] = b.y;
    output[first + 6u] = b.z;
    output[first + 7u] = b.w;
  }
}
