#include "linalg/cholesky.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"

namespace weightsmith {
namespace {

constexpr size_t kPanel = 64;  // columns that are eliminated together: they stay in the cache
constexpr size_t kRows = 8;    // each row of V serves as many
// Smaller matrices are not worth a thread.
constexpr size_t kAlone = 256;

}  // namespace

Cholesky::Cholesky(std::vector<double> matrix, size_t n) : v_(std::move(matrix)), n_(n), share_(n >= kAlone) {}

std::optional<Cholesky::Dependent> Cholesky::factor(double tolerance) {
  std::vector<double> least(n_);
  for (size_t i = 0; i < n_; i++) least[i] = tolerance * row(i)[i];
  for (size_t end = n_; end > 0;) {
    const size_t begin = end > kPanel ? end - kPanel : 0;
    for (size_t j = end; j-- > begin;) {
      const double pivot = row(j)[j] - dot(row(j) + j + 1, row(j) + j + 1, end - j - 1);
      if (!(pivot > least[j])) return Dependent{j, pivot};
      row(j)[j] = std::sqrt(pivot);
      for (size_t i = 0; i < j; i++) {
        row(i)[j] = (row(i)[j] - dot(row(i) + j + 1, row(j) + j + 1, end - j - 1)) / row(j)[j];
      }
    }
    share_(begin, [&](size_t i) {
      for (size_t j = i; j < begin; j++) row(i)[j] -= dot(row(i) + begin, row(j) + begin, end - begin);
    });
    end = begin;
  }
  return std::nullopt;
}

void Cholesky::solve(std::span<double> rows) const {
  const size_t count = rows.size() / n_;
  share_((count + kRows - 1) / kRows, [&](size_t group) {
    const size_t first = group * kRows;
    const size_t last = std::min(count, first + kRows);
    // z V^T = g from the last number on, then y V = z from the first.
    for (size_t k = n_; k-- > 0;) {
      const double* line = row(k);
      for (size_t r = first; r < last; r++) {
        double* z = rows.data() + r * n_;
        z[k] = (z[k] - dot(z + k + 1, line + k + 1, n_ - k - 1)) / line[k];
      }
    }
    for (size_t k = 0; k < n_; k++) {
      const double* line = row(k);
      for (size_t r = first; r < last; r++) {
        double* y = rows.data() + r * n_;
        y[k] /= line[k];
        for (size_t j = k + 1; j < n_; j++) y[j] -= y[k] * line[j];
      }
    }
  });
}

std::vector<float> Cholesky::inverse() const {
  std::vector<float> inverse(n_ * n_);
  share_((n_ + kRows - 1) / kRows, [&](size_t group) {
    const size_t first = group * kRows;
    const size_t rows = std::min(kRows, n_ - first);
    std::vector<double> sums(kRows * n_);
    for (size_t k = first; k < n_; k++) {
      const double* line = row(k);
      for (size_t r = 0; r < rows && first + r <= k; r++) {
        double* sum = sums.data() + r * n_;
        const double u = ((first + r == k ? 1.0 : 0.0) - sum[k]) / line[k];
        inverse[(first + r) * n_ + k] = static_cast<float>(u);
        for (size_t j = k + 1; j < n_; j++) sum[j] += u * line[j];
      }
    }
  });
  return inverse;
}

std::vector<float> inverseFactor(std::span<const float> gram, size_t n, double damping) {
  std::vector<double> h(gram.begin(), gram.end());
  double mean = 0;
  for (size_t i = 0; i < n; i++) {
    if (h[i * n + i] == 0) h[i * n + i] = 1;
    mean += h[i * n + i] / static_cast<double>(n);
  }
  for (size_t i = 0; i < n; i++) h[i * n + i] += damping * mean;
  Cholesky cholesky(std::move(h), n);
  if (const auto dependent = cholesky.factor(0)) {
    throw Error(Code::ARGUMENT, "The Gram matrix is not positive definite: its input " +
                                    std::to_string(dependent->column) + " leaves " + std::to_string(dependent->pivot) +
                                    ".");
  }
  return cholesky.inverse();
}

}  // namespace weightsmith
