// RAM+, tensor-local: what a model changed alone is raised by how much of its changes it shares with other models.
// Kernels: ram_counts, ram. Coefficients: epsilon, r, alpha.
#include <algorithm>

#include "steps/cpu_step.h"

namespace weightsmith {
namespace {

class RamPlus final : public CpuStep {
 public:
  explicit RamPlus(const CpuJob& job) : CpuStep(job), counts_(2 * (job.inputs - 1)) {}

  void consume(size_t, std::span<const uint32_t> partials, uint64_t) override {
    for (size_t i = 0; i < partials.size(); ++i) counts_[i % counts_.size()] += partials[i];
  }

  Outcome finish(size_t) override {
    const double epsilon = job_.coefficients.at(0), r = job_.coefficients.at(1), alpha = job_.coefficients.at(2);
    std::vector<double> words{epsilon};
    for (size_t i = 0; i < counts_.size(); i += 2) {
      const double shared = static_cast<double>(counts_[i]), alone = static_cast<double>(counts_[i + 1]);
      // No element of its own: the ratio is as large as can be, and nothing is left to raise.
      const double ratio = alone > 0 ? shared / alone : alpha;
      words.push_back(1 + r * std::clamp(ratio, 0.0, alpha));
    }
    for (size_t k = 0; k < job_.inputs; ++k) words.push_back(1 / std::max(1.0, static_cast<double>(k)));
    return {floatWords(words), false, {}};
  }

 private:
  std::vector<uint64_t> counts_;
};

}  // namespace

std::unique_ptr<CpuStep> make_ramplus_tl(const CpuJob& job) { return std::make_unique<RamPlus>(job); }

}  // namespace weightsmith
