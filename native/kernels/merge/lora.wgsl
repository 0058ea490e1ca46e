// Low-rank adaptation (LoRA, arXiv 2106.09685): out = W + s_1 (B_1 A_1) + s_2 (B_2 A_2) + ..., f32, one rounding.
// Inputs: W [rows, columns]; then, each whole, B [rows, r] and A [r, columns] of every pair. With TRANSPOSED a product
// is turned: W + s (B A)^T with B [columns, r], A [r, rows] (fan_in_fan_out, embeddings, mlx-lm).
// Coefficients: columns, rows; for each pair r, s, step, first: element (i, k) of B is the one at (i r + k) step +
// first, so that B may be one of several that lie between each other (experts). Sums run over r in order, pairs in
// theirs.
// Counts how many stored elements differ from those of W, and how many do not though a product is not zero there.
// Weights and factors mostly have different types: where both are known when the pipeline is made, it compiles in a
// tenth of the time.
#include "adapt.wgsl"

const STRIPS = true;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) nwg: vec3u,
        @builtin(local_invocation_index) lid: u32) {
  let start = place(wid, nwg, lid);
  adapt_block(start, lid);
  report(start);
}
