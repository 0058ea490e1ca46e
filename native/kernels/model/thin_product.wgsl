// Y = D X, or D^T X, of a thin X, on any device.
#include "rows_alone.wgsl"
#include "thin.wgsl"

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32) { multiply(wid, lane, 0u); }
