// The triangular factor by which SparseGPT updates weights, in float64.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

namespace weightsmith {

// Upper U with (G + d I)^-1 = U^T U, row-major and rounded to f32, for a Gram matrix G [n, n] and d = damping times the
// mean of its diagonal. Inputs that were never used (a zero on the diagonal) get a one there. Throws Error ARGUMENT for
// a matrix that is not positive definite.
std::vector<float> inverseFactor(std::span<const float> gram, size_t n, double damping);

}  // namespace weightsmith
