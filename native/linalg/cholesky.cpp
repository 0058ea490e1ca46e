#include "linalg/cholesky.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <string>
#include <thread>

#include "base/error.h"

namespace weightsmith {
namespace {

constexpr size_t kPanel = 64;
constexpr size_t kRows = 8;
constexpr size_t kLanes = 4;
// Smaller matrices are not worth a thread.
constexpr size_t kAlone = 256;

double dot(const double* a, const double* b, size_t count) {
  double sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t l = 0; l < kLanes; l++) sums[l] += a[i + l] * b[i + l];
  }
  for (; i < count; i++) sums[0] += a[i] * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Work on 0 .. count - 1, shared among threads; what each does depends on its number alone.
void share(size_t count, size_t n, const std::function<void(size_t)>& work) {
  const size_t threads = n < kAlone ? 1 : std::max(1u, std::thread::hardware_concurrency());
  std::atomic<size_t> next{0};
  const auto run = [&] {
    for (size_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::thread> others;
  for (size_t t = 1; t < threads; t++) others.emplace_back(run);
  run();
  for (auto& thread : others) thread.join();
}

// Upper V with H = V V^T in place of the upper half of H, a panel of columns at a time, from the last one.
void decompose(std::vector<double>& h, size_t n) {
  const auto row = [&](size_t i) { return h.data() + i * n; };
  for (size_t end = n; end > 0;) {
    const size_t begin = end > kPanel ? end - kPanel : 0;
    for (size_t j = end; j-- > begin;) {
      const double square = row(j)[j] - dot(row(j) + j + 1, row(j) + j + 1, end - j - 1);
      if (!(square > 0)) {
        throw Error(Code::ARGUMENT, "The Gram matrix is not positive definite: its input " + std::to_string(j) +
                                        " leaves " + std::to_string(square) + ".");
      }
      row(j)[j] = std::sqrt(square);
      const auto column = [&](size_t i) {
        row(i)[j] = (row(i)[j] - dot(row(i) + j + 1, row(j) + j + 1, end - j - 1)) / row(j)[j];
      };
      for (size_t i = 0; i < j; i++) column(i);
    }
    share(begin, n, [&](size_t i) {
      for (size_t j = i; j < begin; j++) row(i)[j] -= dot(row(i) + begin, row(j) + begin, end - begin);
    });
    end = begin;
  }
}

}  // namespace

std::vector<float> inverseFactor(std::span<const float> gram, size_t n, double damping) {
  std::vector<double> v(gram.begin(), gram.end());
  double mean = 0;
  for (size_t i = 0; i < n; i++) {
    if (v[i * n + i] == 0) v[i * n + i] = 1;
    mean += v[i * n + i] / static_cast<double>(n);
  }
  for (size_t i = 0; i < n; i++) v[i * n + i] += damping * mean;
  decompose(v, n);
  // Rows of U = V^-1, some together, so that a row of V is read once for all of them.
  std::vector<float> factor(n * n);
  share((n + kRows - 1) / kRows, n, [&](size_t group) {
    const size_t first = group * kRows;
    const size_t rows = std::min(kRows, n - first);
    std::vector<double> sums(kRows * n);
    for (size_t k = first; k < n; k++) {
      const double* line = v.data() + k * n;
      for (size_t r = 0; r < rows && first + r <= k; r++) {
        double* sum = sums.data() + r * n;
        const double u = ((first + r == k ? 1.0 : 0.0) - sum[k]) / line[k];
        factor[(first + r) * n + k] = static_cast<float>(u);
        for (size_t j = k + 1; j < n; j++) sum[j] += u * line[j];
      }
    }
  });
  return factor;
}

}  // namespace weightsmith
