// gemm by matrices of 16 x 16.
#include "main_gemm_matrix.wgsl"
const SIDE = 16u;
