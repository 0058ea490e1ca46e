// gemm for many rows, on CPUs.
#include "main_gemm_tile.wgsl"
#include "weights.wgsl"
