// y[i] = sum over rows of g[t, i] x[t, i] / norms[i] (+ y where `add` is not 0): the gradient of a magnitude of DoRA,
// from the gradient g of what dora_scale made of x. Zero where a norm is.
struct Parameters { rows: u32, width: u32, add: u32 }
#include "main_columns.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> norms: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> g: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

fn term(t: u32, i: u32) -> f32 { return g[t * p.width + i] * x[t * p.width + i]; }
fn whole(total: f32, i: u32) -> f32 { return select(0.0, total / norms[i], norms[i] > 0.0); }
