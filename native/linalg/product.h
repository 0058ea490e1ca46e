// Products of matrices in float64 that are too small, or too exact, for the device. Work is shared among the cores of
// the machine; what each number is made of, and in which order, does not depend on how many there are.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

namespace weightsmith {

// A B for A [rows, inner] and B [inner, columns], row-major; sums run over `inner` in order. Throws Error ARGUMENT for
// sizes that do not fit.
std::vector<double> product(std::span<const double> a, std::span<const double> b, size_t rows, size_t inner,
                            size_t columns);

// [rows, columns] to [columns, rows].
std::vector<double> transposed(std::span<const double> matrix, size_t rows, size_t columns);

}  // namespace weightsmith
