// gemm_32 of f16 weights, for devices that have f16.
enable f16;
#include "main_gemm_tile.wgsl"
#include "halves.wgsl"
