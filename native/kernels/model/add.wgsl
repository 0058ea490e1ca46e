// x += y, the residual stream and what a block adds to it.
#include "main_vec4.wgsl"
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4f>;

fn each(i: u32) { x[i] += y[i]; }
