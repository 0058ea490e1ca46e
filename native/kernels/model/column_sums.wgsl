// y[i] = sum over rows of g[t, first + i] (+ y where `add` is not 0): the gradient of a bias.
struct Parameters { rows: u32, width: u32, first: u32, stride: u32, add: u32 } // stride: of g
#include "main_columns.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> g: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

fn term(t: u32, i: u32) -> f32 { return g[t * p.stride + p.first + i]; }
fn whole(total: f32, i: u32) -> f32 { return total; }
