// thin_product for devices with subgroups.
enable subgroups;
diagnostic(off, subgroup_uniformity);
#include "rows_shared.wgsl"
#include "thin.wgsl"

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_invocation_id) neighbour: u32) { multiply(wid, lane, neighbour); }
