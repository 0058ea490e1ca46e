#include "linalg/qr.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "base/error.h"

namespace weightsmith {
namespace {

constexpr size_t kPanel = 32;         // columns that are reflected at together: they stay in the cache
constexpr size_t kAlone = 64 * 1024;  // smaller matrices, in numbers, are not worth a thread
constexpr double kDependent = 8 * std::numeric_limits<double>::epsilon();

}  // namespace

Householder::Householder(Columns a, const Share& share, bool pivot)
    : share_(share), a_(std::move(a)), order_(a_.columns()) {
  std::iota(order_.begin(), order_.end(), size_t{0});
  factors_.reserve(a_.columns());
  if (pivot) {
    pivoted();
  } else {
    inPanels();
  }
}

void Householder::reflect(size_t j) {
  double* c = a_[j] + j;
  const size_t below = a_.rows() - j - 1;
  const double rest = dot(c + 1, c + 1, below);
  if (rest == 0) {
    factors_.push_back(0);
    return;
  }
  // Away from zero, so that nothing cancels.
  const double length = std::copysign(std::sqrt(c[0] * c[0] + rest), c[0]);
  const double first = c[0] + length;
  for (size_t i = 1; i <= below; i++) c[i] /= first;
  factors_.push_back(first / length);
  c[0] = -length;
}

void Householder::apply(size_t j, double* c) const {
  const double factor = factors_[j];
  if (factor == 0) return;
  const double* v = a_[j] + j + 1;
  const size_t below = a_.rows() - j - 1;
  double* rest = c + j + 1;
  const double along = factor * (c[j] + dot(v, rest, below));
  c[j] -= along;
  for (size_t i = 0; i < below; i++) rest[i] -= along * v[i];
}

void Householder::inPanels() {
  const size_t n = a_.columns();
  for (size_t begin = 0; begin < n; begin += kPanel) {
    const size_t end = std::min(n, begin + kPanel);
    for (size_t j = begin; j < end; j++) {
      reflect(j);
      for (size_t k = j + 1; k < end; k++) apply(j, a_[k]);
    }
    share_(n - end, [&](size_t k) {
      for (size_t j = begin; j < end; j++) apply(j, a_[end + k]);
    });
  }
}

void Householder::pivoted() {
  const size_t n = a_.columns();
  // Squares of what is left of each column, taken down by every reflection, and what they were when last summed up.
  std::vector<double> left(n), summed(n);
  for (size_t k = 0; k < n; k++) left[k] = summed[k] = dot(a_[k], a_[k], a_.rows());
  double least = 0;
  for (size_t j = 0; j < n; j++) {
    const size_t longest = std::max_element(left.begin() + j, left.end()) - left.begin();
    if (longest != j) {
      std::swap_ranges(a_[j], a_[j] + a_.rows(), a_[longest]);
      std::swap(left[j], left[longest]);
      std::swap(summed[j], summed[longest]);
      std::swap(order_[j], order_[longest]);
    }
    const double exact = dot(a_[j] + j, a_[j] + j, a_.rows() - j);
    if (j == 0) least = kDependent * kDependent * exact;
    if (exact <= least) return;
    reflect(j);
    share_(n - j - 1, [&](size_t i) {
      const size_t k = j + 1 + i;
      double* c = a_[k];
      apply(j, c);
      left[k] -= c[j] * c[j];
      // Too little is left of the number to take more from it.
      if (left[k] <= 1e-6 * summed[k]) left[k] = summed[k] = dot(c + j + 1, c + j + 1, a_.rows() - j - 1);
    });
  }
}

void Householder::multiply(Columns& x, size_t first) const {
  const size_t count = factors_.size();
  for (size_t end = count; end > 0;) {
    const size_t begin = (end - 1) / kPanel * kPanel;
    share_(x.columns() - first, [&](size_t k) {
      for (size_t j = end; j-- > begin;) apply(j, x[first + k]);
    });
    end = begin;
  }
}

Qr thinQr(std::span<const double> matrix, size_t rows, size_t columns) {
  checkMatrix(matrix, rows, columns);
  if (rows < columns) {
    throw Error(Code::ARGUMENT, "A QR factorisation needs at least as many rows as columns, but the matrix has " +
                                    std::to_string(rows) + " rows and " + std::to_string(columns) + " columns.");
  }
  const double scale = scaleOf(matrix);
  Columns a = Columns::from(matrix, rows, columns);
  for (double& value : a.values()) value *= scale;
  const Share share(matrix.size() >= kAlone);
  const Householder householder(std::move(a), share, false);

  Columns q(rows, columns);
  std::vector<double> r(columns * columns);
  for (size_t i = 0; i < columns; i++) {
    const double sign = householder.r(i, i) < 0 ? -1 : 1;
    q[i][i] = sign;
    for (size_t j = i; j < columns; j++) r[i * columns + j] = sign * householder.r(i, j) / scale;
  }
  householder.multiply(q);
  return {q.rowMajor(), std::move(r)};
}

void checkMatrix(std::span<const double> matrix, size_t rows, size_t columns) {
  if (rows == 0 || columns == 0 || matrix.size() / columns != rows || matrix.size() % columns != 0) {
    throw Error(Code::ARGUMENT, "A matrix of " + std::to_string(rows) + " rows and " + std::to_string(columns) +
                                    " columns cannot have " + std::to_string(matrix.size()) + " numbers.");
  }
  const auto odd = std::find_if(matrix.begin(), matrix.end(), [](double value) { return !std::isfinite(value); });
  if (odd != matrix.end()) {
    const size_t index = odd - matrix.begin();
    throw Error(Code::ARGUMENT, "A matrix to be factorised has a value that is NaN or infinite in row " +
                                    std::to_string(index / columns) + ", column " + std::to_string(index % columns) +
                                    ".");
  }
}

double scaleOf(std::span<const double> matrix) {
  double largest = 0;
  for (const double value : matrix) largest = std::max(largest, std::abs(value));
  if (largest == 0) return 1;
  // Not the very last powers: their inverses are no numbers.
  return std::ldexp(1.0, -std::clamp(std::ilogb(largest), -1000, 1000));
}

}  // namespace weightsmith
