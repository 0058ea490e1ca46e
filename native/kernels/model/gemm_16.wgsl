// gemm for many rows.
#include "main_gemm_rows.wgsl"
#include "weights.wgsl"
const ROWS = 16u;
