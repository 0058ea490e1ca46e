// Squares of what a product of low rank leaves, on any device.
#include "rows_alone.wgsl"
#include "rest.wgsl"

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) { rest(wid, groups.y, lane, 0u); }
