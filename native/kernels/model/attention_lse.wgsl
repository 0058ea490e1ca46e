// Attention, which leaves statistics[t, head].x = the log of the sum of exp(score): what its gradient takes its weights
// from.
#include "main_attention.wgsl"

@group(0) @binding(6) var<storage, read_write> statistics: array<vec2f>;

fn finish(query: u32, most: f32, total: f32) { statistics[query].x = most + log(total); }
