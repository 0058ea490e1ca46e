// statistics[t, head].y = the dot product of a head of attention's result y and of its gradient g: what the gradients
// of all its weights have in common. A row a workgroup, a head an invocation.
struct Parameters { rows: u32, heads: u32, size: u32 }
#include "main_rows.wgsl"
@group(0) @binding(0) var<storage, read> p: Parameters;
@group(0) @binding(1) var<storage, read> y: array<f32>;
@group(0) @binding(2) var<storage, read> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> statistics: array<vec2f>;

fn each(t: u32, lane: u32) {
  for (var head = lane; head < p.heads; head += LANES) {
    let own = (t * p.heads + head) * p.size;
    var sum = 0.0;
    for (var i = 0u; i < p.size; i++) { sum += y[own + i] * g[own + i]; }
    statistics[t * p.heads + head].y = sum;
  }
}
