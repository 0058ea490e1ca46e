// gemm for a few rows.
#include "gemm_rows.wgsl"
#include "weights.wgsl"
const ROWS = 8u;
