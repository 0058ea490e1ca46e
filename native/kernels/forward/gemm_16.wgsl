// gemm for many rows.
#include "gemm_rows.wgsl"
const ROWS = 16u;
