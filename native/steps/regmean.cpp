// RegMean: how much each model's inputs count. The inputs are Gram matrices G_1 .. G_k [n, n] of what a linear takes in
// each model; the result is M = G'_m (sum G'_i)^-1 with G'_i = w_i G_i, off-diagonals times r. Kernels: store_f32,
// load_f32. Coefficients: n, r, m (from 0), w_1 .. w_k. Inputs that no model has (zero on the diagonal everywhere)
// count by w alone. Takes 16 n^2 bytes, and some 2.3 n^3 multiplications.
#include <bit>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "linalg/cholesky.h"
#include "steps/cpu_step.h"

namespace weightsmith {
namespace {

constexpr double kSingular = 1e-6;  // of a diagonal: the statistics are f32

class RegMean final : public CpuStep {
 public:
  explicit RegMean(const CpuJob& job)
      : CpuStep(job),
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
    Cholesky cholesky(std::exchange(sum_, {}), n_);
    if (cholesky.factor(kSingular)) {
      throw Error(Code::ARGUMENT,
                  "The Gram matrices of " + std::to_string(n_) +
                      " inputs of a linear add up to a singular matrix: some inputs follow from others; "
                      "give statistics of more data or a smaller reduce_non_diagonal_ratio.");
    }
    cholesky.solve(own_);
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

std::unique_ptr<CpuStep> make_regmean(const CpuJob& job) { return std::make_unique<RegMean>(job); }

}  // namespace weightsmith
