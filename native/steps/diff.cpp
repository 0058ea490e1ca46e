// How two versions of a tensor differ. Kernel: diff. Result: sum|d|, sum d^2, a.a, b.b, a.b, elements changed,
// largest |d|, elements with NaN or Inf.
#include <algorithm>
#include <bit>

#include "steps/cpu_step.h"

namespace weightsmith {
namespace {

class Diff final : public CpuStep {
 public:
  using CpuStep::CpuStep;

  void consume(size_t, std::span<const uint32_t> partials, uint64_t) override {
    for (size_t i = 0; i + kWords <= partials.size(); i += kWords) {
      for (size_t j = 0; j < 5; ++j) result_[j] += std::bit_cast<float>(partials[i + j]);
      result_[5] += partials[i + 5];
      result_[6] = std::max(result_[6], static_cast<double>(std::bit_cast<float>(partials[i + 6])));
      result_[7] += partials[i + 7];
    }
  }

  Outcome finish(size_t) override { return {{}, false, result_}; }

 private:
  static constexpr size_t kWords = 8;
  std::vector<double> result_ = std::vector<double>(kWords);
};

}  // namespace

std::unique_ptr<CpuStep> make_diff(const CpuJob& job) { return std::make_unique<Diff>(job); }

}  // namespace weightsmith
