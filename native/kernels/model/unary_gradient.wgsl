// g = g f'(x): the gradient of what kernel unary made becomes that of what it read, x.
#include "main_vec4.wgsl"
#include "slopes.wgsl"
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> g: array<vec4f>;

fn each(i: u32) { g[i] *= slopes(x[i]); }
