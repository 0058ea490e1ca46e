// attention_lse for devices with subgroups.
#include "main_attention_subgroup.wgsl"

@group(0) @binding(6) var<storage, read_write> statistics: array<vec2f>;

fn finish(query: u32, most: f32, total: f32) { statistics[query].x = most + log(total); }
