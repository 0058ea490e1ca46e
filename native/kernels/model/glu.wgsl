// x = f(x) * y, with f of include/activations.wgsl.
#include "main_vec4.wgsl"
#include "activations.wgsl"
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4f>;

fn each(i: u32) { x[i] = activated(x[i]) * y[i]; }
