// gemm_1 of f16 weights, for devices that have f16.
enable f16;
#include "main_gemm_rows.wgsl"
#include "halves.wgsl"
const ROWS = 1u;
