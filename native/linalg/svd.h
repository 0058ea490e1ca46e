// Singular values and vectors of small matrices in float64. The same bytes come out with any number of cores.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

namespace weightsmith {

struct Svd {
  std::vector<double> u;  // [rows, k], k the smaller of rows and columns
  std::vector<double> s;  // [k], descending
  std::vector<double> v;  // [columns, k]
};

// A = U diag(s) V^T for A [rows, columns]; all row-major. The columns of U and V are orthonormal, those that belong to
// zeros too; the component of largest magnitude of each column of U is positive (of equals the first). Columns that
// depend on others up to 8 eps give zeros. QR with pivots, then one-sided Jacobi rotations on R^T (Drmac and Veselic,
// New fast and accurate Jacobi SVD algorithm I). Throws Error ARGUMENT for sizes that do not fit and for values that
// are not finite.
Svd smallSvd(std::span<const double> matrix, size_t rows, size_t columns);

}  // namespace weightsmith
