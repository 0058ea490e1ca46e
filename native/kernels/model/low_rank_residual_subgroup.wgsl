// low_rank_residual for devices with subgroups.
enable subgroups;
diagnostic(off, subgroup_uniformity);
#include "rows_shared.wgsl"
#include "rest.wgsl"

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32, @builtin(subgroup_invocation_id) neighbour: u32) {
  rest(wid, groups.y, lane, neighbour);
}
