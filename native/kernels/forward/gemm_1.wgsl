// gemm for the next token of one sequence.
#include "gemm_rows.wgsl"
const ROWS = 1u;
