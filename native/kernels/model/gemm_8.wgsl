// gemm for a few rows.
#include "main_gemm_rows.wgsl"
#include "weights.wgsl"
const ROWS = 8u;
