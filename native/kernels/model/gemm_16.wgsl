// gemm for many rows.
#include "gemm_rows.wgsl"
#include "weights.wgsl"
const ROWS = 16u;
