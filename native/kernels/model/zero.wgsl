// x = 0.
#include "main_vec4.wgsl"
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;

fn each(i: u32) { x[i] = vec4f(); }
