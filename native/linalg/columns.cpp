#include "linalg/columns.h"

#include <algorithm>

namespace weightsmith {
namespace {

constexpr size_t kTile = 32;  // numbers of a line that is read while another one is written

// to[j * rows + i] = from[i * columns + j]
void transpose(const double* from, double* to, size_t rows, size_t columns) {
  for (size_t top = 0; top < rows; top += kTile) {
    for (size_t left = 0; left < columns; left += kTile) {
      for (size_t i = top; i < std::min(rows, top + kTile); i++) {
        for (size_t j = left; j < std::min(columns, left + kTile); j++) to[j * rows + i] = from[i * columns + j];
      }
    }
  }
}

}  // namespace

Columns Columns::from(std::span<const double> matrix, size_t rows, size_t columns, bool transposed) {
  Columns result(rows, columns);
  if (transposed) {
    std::copy(matrix.begin(), matrix.end(), result.values_.begin());
  } else {
    transpose(matrix.data(), result.values_.data(), rows, columns);
  }
  return result;
}

std::vector<double> Columns::rowMajor() const {
  std::vector<double> result(values_.size());
  transpose(values_.data(), result.data(), columns_, rows_);
  return result;
}

}  // namespace weightsmith
