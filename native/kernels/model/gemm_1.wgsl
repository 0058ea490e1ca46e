// gemm for the next token of one sequence.
#include "main_gemm_rows.wgsl"
#include "weights.wgsl"
const ROWS = 1u;
