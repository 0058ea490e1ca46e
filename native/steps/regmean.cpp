// RegMean: how much each model's inputs count. The inputs are Gram matrices G_1 .. G_k [n, n] of what a linear takes in
// each model; the result is M = G'_m (sum G'_i)^-1 with G'_i = w_i G_i, off-diagonals times r. Kernels: elements,
// given. Coefficients: n, r, m (from 0), w_1 .. w_k. Inputs that no model has (zero on the diagonal everywhere) count
// by w alone. Takes 16 n^2 bytes, and some 2.3 n^3 multiplications.
#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "steps/host_step.h"

namespace weightsmith {
namespace {

constexpr uint64_t kPanel = 64;     // rows that are eliminated together: they stay in the cache
constexpr double kSingular = 1e-6;  // of a diagonal: the statistics are f32

// row -= factor * other, from `first` on.
void subtract(double* row, const double* other, double factor, uint64_t first, uint64_t end) {
  for (uint64_t j = first; j < end; ++j) row[j] -= factor * other[j];
}

// S = U^T U in place, U in the upper triangle and its transpose in the lower one. False where S is singular.
bool factorize(std::vector<double>& s, uint64_t n) {
  const auto row = [&](uint64_t i) { return &s[i * n]; };
  std::vector<double> least(n);  // of pivots
  for (uint64_t i = 0; i < n; ++i) least[i] = kSingular * row(i)[i];
  for (uint64_t from = 0; from < n; from += kPanel) {
    const uint64_t to = std::min(n, from + kPanel);
    for (uint64_t i = from; i < to; ++i) {
      for (uint64_t k = from; k < i; ++k) subtract(row(i), row(k), row(k)[i], i, n);
      const double pivot = row(i)[i];
      if (!(pivot > least[i])) return false;
      const double scale = 1 / std::sqrt(pivot);
      for (uint64_t j = i; j < n; ++j) row(i)[j] *= scale;
    }
    for (uint64_t i = to; i < n; ++i) {
      for (uint64_t k = from; k < to; ++k) subtract(row(i), row(k), row(k)[i], i, n);
    }
  }
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t j = i + 1; j < n; ++j) row(j)[i] = row(i)[j];
  }
  return true;
}

// Rows of M: y S = g for each row g, by U and then by its transpose.
void solve(const std::vector<double>& s, std::vector<double>& m, uint64_t n) {
  constexpr uint64_t kRows = 8;  // each row of U serves as many
  for (uint64_t from = 0; from < n; from += kRows) {
    const uint64_t to = std::min(n, from + kRows);
    for (uint64_t k = 0; k < n; ++k) {
      const double* const u = &s[k * n];
      for (uint64_t r = from; r < to; ++r) {
        double* const y = &m[r * n];
        y[k] /= u[k];
        if (y[k] != 0) subtract(y, u, y[k], k + 1, n);
      }
    }
    for (uint64_t k = n; k-- > 0;) {
      const double* const l = &s[k * n];
      for (uint64_t r = from; r < to; ++r) {
        double* const y = &m[r * n];
        y[k] /= l[k];
        if (y[k] != 0) subtract(y, l, y[k], 0, k);
      }
    }
  }
}

class RegMean final : public HostStep {
 public:
  explicit RegMean(const HostJob& job)
      : HostStep(job),
        n_(static_cast<uint64_t>(job.coefficients[0])),
        model_(static_cast<size_t>(job.coefficients[2])),
        weights_(job.coefficients.begin() + 3, job.coefficients.end()) {}

  void consume(size_t, std::span<const uint32_t> partials, uint64_t firstBlock) override {
    if (sum_.empty()) {
      sum_.assign(n_ * n_, 0);
      own_.assign(n_ * n_, 0);
    }
    const double ratio = job_.coefficients[1];
    for (uint64_t block = 0, at = 0; at < partials.size(); ++block) {
      const uint64_t first = (firstBlock + block) * kBlock;
      for (size_t i = 0; i < job_.inputs; ++i) {
        for (uint64_t e = 0; e < kBlock; ++e, ++at) {
          const uint64_t index = first + e;
          if (index >= job_.elements) continue;
          const double value =
              std::bit_cast<float>(partials[at]) * weights_[i] * (index / n_ == index % n_ ? 1 : ratio);
          sum_[index] += value;
          if (i == model_) own_[index] = value;
        }
      }
    }
  }

  Outcome finish(size_t) override {
    double total = 0;
    for (const double weight : weights_) total += weight;
    for (uint64_t i = 0; i < n_; ++i) {
      if (sum_[i * n_ + i] != 0) continue;
      sum_[i * n_ + i] = 1;
      own_[i * n_ + i] = weights_[model_] / total;
    }
    if (!factorize(sum_, n_)) {
      throw Error(Code::ARGUMENT,
                  "The Gram matrices of " + std::to_string(n_) +
                      " inputs of a linear add up to a singular matrix: some inputs follow from others; "
                      "give statistics of more data or a smaller reduce_non_diagonal_ratio.");
    }
    solve(sum_, own_, n_);
    sum_ = {};
    return {{0}, false, {}};
  }

  std::vector<uint32_t> part(uint64_t first, uint64_t elements) const override {
    if (own_.empty() || !sum_.empty()) return {};
    std::vector<uint32_t> words(2 + elements);
    words[1] = 1;
    for (uint64_t e = 0; e < elements; ++e) {
      words[2 + e] = std::bit_cast<uint32_t>(static_cast<float>(own_[first + e]));
    }
    return words;
  }

 private:
  const uint64_t n_;
  const size_t model_;  // whose M it is
  const std::vector<double> weights_;
  std::vector<double> sum_, own_;
};

}  // namespace

std::unique_ptr<HostStep> make_regmean(const HostJob& job) { return std::make_unique<RegMean>(job); }

}  // namespace weightsmith
