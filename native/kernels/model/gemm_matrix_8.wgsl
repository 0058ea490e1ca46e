// gemm by matrices of 8 x 8.
#include "gemm_matrix.wgsl"
const SIDE = 8u;
