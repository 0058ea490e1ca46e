// A matrix of float64 by columns, which is how factorisations that turn and reflect columns read it.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

namespace weightsmith {

class Columns {
 public:
  Columns(size_t rows, size_t columns) : rows_(rows), columns_(columns), values_(rows * columns) {}

  // From rows x columns numbers, row-major; `transposed`: of a matrix of columns x rows.
  static Columns from(std::span<const double> matrix, size_t rows, size_t columns, bool transposed = false);

  // All of it, row-major.
  std::vector<double> rowMajor() const;

  size_t rows() const { return rows_; }
  size_t columns() const { return columns_; }
  double* operator[](size_t column) { return values_.data() + column * rows_; }
  const double* operator[](size_t column) const { return values_.data() + column * rows_; }
  std::vector<double>& values() { return values_; }

 private:
  size_t rows_;
  size_t columns_;
  std::vector<double> values_;
};

}  // namespace weightsmith
