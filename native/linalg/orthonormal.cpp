#include "linalg/orthonormal.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "linalg/qr.h"

namespace weightsmith {
namespace {

constexpr size_t kRows = 4;  // each number of the Gram matrix is loaded and stored once for as many

// A^T A, its upper half.
std::vector<double> gram(const std::vector<double>& a, size_t rows, size_t n) {
  std::vector<double> g(n * n);
  const std::vector<double> zeros(n);
  for (size_t first = 0; first < rows; first += kRows) {
    const double* row[kRows];
    for (size_t r = 0; r < kRows; r++) row[r] = first + r < rows ? &a[(first + r) * n] : zeros.data();
    for (size_t k = 0; k < n; k++) {
      const double x0 = row[0][k], x1 = row[1][k], x2 = row[2][k], x3 = row[3][k];
      double* sum = &g[k * n];
      for (size_t j = k; j < n; j++) sum[j] += (x0 * row[0][j] + x1 * row[1][j]) + (x2 * row[2][j] + x3 * row[3][j]);
    }
  }
  return g;
}

// The inverse of the upper R with R^T R = G; empty where a pivot has lost all of its figures.
std::vector<double> inverseRoot(std::vector<double> r, size_t n) {
  const double least = 64 * std::numeric_limits<double>::epsilon() * static_cast<double>(n);
  for (size_t k = 0; k < n; k++) {
    const double before = r[k * n + k];
    double pivot = before;
    for (size_t i = 0; i < k; i++) pivot -= r[i * n + k] * r[i * n + k];
    if (!(pivot > least * before)) return {};
    const double root = std::sqrt(pivot);
    for (size_t j = k; j < n; j++) {
      double rest = r[k * n + j];
      for (size_t i = 0; i < k; i++) rest -= r[i * n + k] * r[i * n + j];
      r[k * n + j] = rest / root;
    }
    r[k * n + k] = root;
  }
  std::vector<double> inverse(n * n);
  for (size_t j = 0; j < n; j++) {
    inverse[j * n + j] = 1 / r[j * n + j];
    for (size_t i = j; i-- > 0;) {
      double sum = 0;
      for (size_t k = i + 1; k <= j; k++) sum += r[i * n + k] * inverse[k * n + j];
      inverse[i * n + j] = -sum / r[i * n + i];
    }
  }
  return inverse;
}

// A becomes A T for an upper T.
void multiply(std::vector<double>& a, const std::vector<double>& t, size_t rows, size_t n) {
  std::vector<double> line(n);
  for (size_t i = 0; i < rows; i++) {
    double* row = &a[i * n];
    std::fill(line.begin(), line.end(), 0.0);
    for (size_t k = 0; k < n; k++) {
      const double x = row[k];
      const double* factors = &t[k * n];
      for (size_t j = k; j < n; j++) line[j] += x * factors[j];
    }
    std::copy(line.begin(), line.end(), row);
  }
}

// How far A^T A is from the identity.
double distance(const std::vector<double>& g, size_t n) {
  double largest = 0;
  for (size_t i = 0; i < n; i++) {
    for (size_t j = i; j < n; j++) largest = std::max(largest, std::abs(g[i * n + j] - (i == j ? 1 : 0)));
  }
  return largest;
}

}  // namespace

std::vector<float> orthonormal(std::span<const float> matrix, size_t rows, size_t columns) {
  const std::vector<double> given(matrix.begin(), matrix.end());
  checkMatrix(given, rows, columns);
  const double scale = scaleOf(given);
  std::vector<double> a(given.size());
  std::transform(given.begin(), given.end(), a.begin(), [&](double value) { return value * scale; });
  for (int round = 0; round < 2; round++) {
    const auto products = gram(a, rows, columns);
    // The second round makes good what is left of the first, if that is not too much.
    const auto inverse =
        round == 1 && distance(products, columns) > 0.1 ? std::vector<double>() : inverseRoot(products, columns);
    if (inverse.empty() || rows < columns) {
      const auto q = thinQr(given, rows, columns).q;
      return {q.begin(), q.end()};
    }
    multiply(a, inverse, rows, columns);
  }
  return {a.begin(), a.end()};
}

}  // namespace weightsmith
