// DARE with mergekit's rescale, which restores the L1 norm of each delta. Kernels: dare_norms, dare.
// Coefficients: as for `dare`.
#include <bit>

#include "run/coefficients/dare.h"

namespace weightsmith {
namespace {

class DareL1 final : public HostStep {
 public:
  explicit DareL1(const HostJob& job) : HostStep(job), models_(job.inputs - 1), sums_(2 * models_) {}

  std::vector<uint32_t> begin() override { return dareWords(job_, std::vector<double>(models_, 1)); }

  void consume(size_t, std::span<const uint32_t> partials, uint64_t) override {
    for (size_t i = 0; i < partials.size(); ++i) sums_[i % sums_.size()] += std::bit_cast<float>(partials[i]);
  }

  Outcome finish(size_t) override {
    std::vector<double> rescale(models_, 1);
    for (size_t i = 0; i < models_; ++i) {
      const double kept = sums_[2 * i + 1];
      if (job_.coefficients[3] != 0 && kept > 0) rescale[i] = sums_[2 * i] / kept;
    }
    return {dareWords(job_, rescale), false, {}};
  }

 private:
  const size_t models_;
  std::vector<double> sums_;
};

}  // namespace

std::unique_ptr<HostStep> make_dare_l1(const HostJob& job) { return std::make_unique<DareL1>(job); }

}  // namespace weightsmith
