// Attention with grouped heads.
#include "main_attention.wgsl"

fn finish(query: u32, most: f32, total: f32) {}
