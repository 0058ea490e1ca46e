// Orthonormal bases of the columns of tall, narrow matrices, for range finders: what they are multiplied by next is
// f32.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

namespace weightsmith {

// Columns that span what those of A [rows, columns] span, orthonormal in float64 and rounded to f32; row-major, rows >=
// columns. By Cholesky factors of the Gram matrix, twice (Yamamoto, Nakatsukasa, Yanagisawa and Fukaya, Roundoff error
// analysis of the CholeskyQR2 algorithm, 2015), which reads the matrix a quarter as often as reflections do; by these
// where the columns depend on each other too much for that. The same bytes come out with any number of cores. Throws
// Error ARGUMENT for sizes that do not fit and for values that are not finite.
std::vector<float> orthonormal(std::span<const float> matrix, size_t rows, size_t columns);

}  // namespace weightsmith
