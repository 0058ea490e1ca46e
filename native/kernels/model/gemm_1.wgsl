// gemm for the next token of one sequence.
#include "gemm_rows.wgsl"
#include "weights.wgsl"
const ROWS = 1u;
