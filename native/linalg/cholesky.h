// Cholesky factors of symmetric positive definite matrices, in float64. Work is shared among the cores of the machine;
// what each number is made of, and in which order, does not depend on how many there are.
#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "linalg/share.h"

namespace weightsmith {

class Cholesky {
 public:
  // A pivot that was too small: the column depends on those behind it.
  struct Dependent {
    size_t column;
    double pivot;
  };

  // S [n, n], row-major; only its upper half is read. Takes n^2 numbers, those of `matrix`.
  Cholesky(std::vector<double> matrix, size_t n);

  // Finds the upper V with S = V V^T, or the first column, from the last on, whose pivot is not above `tolerance` times
  // its element of the diagonal. Comes before the others.
  std::optional<Dependent> factor(double tolerance);

  // Replaces every row g of [rows, n] by y with y S = g.
  void solve(std::span<double> rows) const;

  // V^-1 [n, n], upper, rounded to f32.
  std::vector<float> inverse() const;

 private:
  double* row(size_t i) { return v_.data() + i * n_; }
  const double* row(size_t i) const { return v_.data() + i * n_; }

  std::vector<double> v_;
  size_t n_;
  Share share_;
};

// Upper U with (G + d I)^-1 = U^T U, row-major and rounded to f32, for a Gram matrix G [n, n] and d = damping times the
// mean of its diagonal: what SparseGPT updates weights by. Inputs that were never used (a zero on the diagonal) get a
// one there. Throws Error ARGUMENT for a matrix that is not positive definite.
std::vector<float> inverseFactor(std::span<const float> gram, size_t n, double damping);

}  // namespace weightsmith
