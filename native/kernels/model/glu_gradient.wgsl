// The gradient g of what kernel glu made, f(x) y, becomes that of x, g y f'(x); and z = g f(x) is that of y (+ z where
// ADD is not 0).
#include "main_vec4.wgsl"
#include "slopes.wgsl"
override ADD: u32;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> y: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> g: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> z: array<vec4f>;

fn each(i: u32) {
  let own = g[i] * activated(x[i]);
  g[i] *= y[i] * slopes(x[i]);
  if (ADD != 0u) { z[i] += own; } else { z[i] = own; }
}
