// DARE with mergekit's rescale, which restores the L1 norm of each delta. Kernels: dare_norms, dare.
// Coefficients: as for `dare`. Where the program has lines, what dare_norms draws is kept for dare (see drop.wgsl): the
// lines of 32 elements have a word a model.
#include <algorithm>
#include <bit>

#include "steps/dare.h"

namespace weightsmith {
namespace {

class DareL1 final : public CpuStep {
 public:
  explicit DareL1(const CpuJob& job) : CpuStep(job), models_(job.inputs - 1), sums_(2 * models_) {
    // At once: growing would take up to three times as much for a moment.
    if (job.lines.size) masks_.reserve((job.elements + kBlock - 1) / kBlock * kRows * models_);
  }

  std::vector<uint32_t> begin() override { return dareWords(job_, std::vector<double>(models_, 1)); }

  void consume(size_t, std::span<const uint32_t> partials, uint64_t) override {
    const size_t masks = job_.lines.size ? kRows * models_ : 0;
    for (; !partials.empty(); partials = partials.subspan(sums_.size() + masks)) {
      for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += std::bit_cast<float>(partials[i]);
      const auto rows = partials.begin() + static_cast<std::ptrdiff_t>(sums_.size());
      masks_.insert(masks_.end(), rows, rows + static_cast<std::ptrdiff_t>(masks));
    }
  }

  // The blocks of a part are whole ones, but for the last of the tensor.
  std::vector<uint32_t> part(uint64_t first, uint64_t elements) const override {
    if (masks_.empty()) return {};
    const auto at = [this](uint64_t row) { return masks_.begin() + static_cast<std::ptrdiff_t>(row * models_); };
    std::vector<uint32_t> words = {0, static_cast<uint32_t>(job_.lines.size)};
    words.insert(words.end(), at(first / job_.lines.size), at((first + elements - 1) / job_.lines.size + 1));
    return words;
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
  static constexpr uint64_t kRows = kBlock / 32;  // a block

  const size_t models_;
  std::vector<double> sums_;
  std::vector<uint32_t> masks_;
};

}  // namespace

std::unique_ptr<CpuStep> make_dare_l1(const CpuJob& job) { return std::make_unique<DareL1>(job); }

}  // namespace weightsmith
