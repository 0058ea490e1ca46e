// Householder QR in float64. Work is shared among the cores of the machine; what each number is made of, and in which
// order, does not depend on how many there are.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "linalg/columns.h"
#include "linalg/share.h"

namespace weightsmith {

// A = Q R by reflections (Golub and Van Loan, Matrix Computations, section 5.2), for A with at least as many rows as
// columns. Q stays in its reflections.
class Householder {
 public:
  // Takes A over. `pivot`: columns are taken in the order of what is left of them, the longest first, until that is at
  // most 8 eps of the first: the rank.
  Householder(Columns a, const Share& share, bool pivot);

  // Elements of R at and above its diagonal.
  double r(size_t row, size_t column) const { return a_[column][row]; }
  // Column i of Q R is this one of A.
  size_t column(size_t i) const { return order_[i]; }
  size_t rank() const { return factors_.size(); }

  // Q times every column of x, from column `first` on; x has as many rows as A.
  void multiply(Columns& x, size_t first = 0) const;

 private:
  void inPanels();
  void pivoted();
  void reflect(size_t j);
  // Column `c` of x is reflected at the vector of column `j`.
  void apply(size_t j, double* c) const;

  const Share& share_;
  Columns a_;  // R, and below it the vectors that are reflected at; the first component of each is 1
  std::vector<double> factors_;
  std::vector<size_t> order_;
};

struct Qr {
  std::vector<double> q;  // [rows, columns]
  std::vector<double> r;  // [columns, columns]
};

// A = Q R for A [rows, columns], rows >= columns; all row-major. R is upper triangular and its diagonal is not
// negative. Columns of Q are orthonormal even where those of A depend on each other. Throws Error ARGUMENT for sizes
// that do not fit and for values that are not finite.
Qr thinQr(std::span<const double> matrix, size_t rows, size_t columns);

// Throws Error ARGUMENT unless the matrix has rows x columns numbers, at least one, all of them finite.
void checkMatrix(std::span<const double> matrix, size_t rows, size_t columns);

// A power of two that brings the largest magnitude near 1, so that squares neither overflow nor vanish; 1 for zeros.
double scaleOf(std::span<const double> matrix);

}  // namespace weightsmith
