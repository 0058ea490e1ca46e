// gemm for a few rows.
#include "gemm_rows.wgsl"
const ROWS = 8u;
