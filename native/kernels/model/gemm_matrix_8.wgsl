// gemm by matrices of 8 x 8.
#include "main_gemm_matrix.wgsl"
const SIDE = 8u;
