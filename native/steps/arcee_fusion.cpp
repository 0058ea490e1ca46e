// Arcee Fusion: the divergence of every row, from what its softmaxes are divided by; then the quartiles of the
// importance of all elements, and the threshold median + 1.5 (q3 - q1). Kernels: divergence (twice, where there are
// several rows: that of a single one is a factor of all elements alike), select_sample, select, fusion. Coefficients:
// none.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "steps/cpu_step.h"
#include "steps/selection.h"

namespace weightsmith {
namespace {

// log of a sum of exponentials, added up part by part. `top` is their largest exponent so far.
class LogSum {
 public:
  // Returns what the sums so far, and those of this part, are multiplied by.
  std::array<double, 2> add(double top, double sum) {
    const double highest = std::max(top_, top);
    const double before = std::exp(top_ - highest), now = std::exp(top - highest);
    sum_ = sum_ * before + sum * now;
    top_ = highest;
    return {before, now};
  }
  double sum() const { return sum_; }
  double value() const { return top_ + std::log(sum_); }

 private:
  double top_ = std::numeric_limits<float>::lowest(), sum_ = 0;
};

// What the softmaxes of a row are divided by.
class RowSums {
 public:
  void add(const std::array<double, 5>& part) {
    const auto [before, now] = base_.add(part[0], part[1]);
    model_.add(part[2], part[3]);
    more_ = more_ * before + part[4] * now;
  }
  // log of the model's; and how much more that is than the base's. Where all differences are small it has an exact sum.
  double model() const { return std::isfinite(more_) ? base_.value() + shift() : model_.value(); }
  double shift() const {
    return std::isfinite(more_) ? std::log1p(more_ / base_.sum()) : model_.value() - base_.value();
  }

 private:
  LogSum base_, model_;
  double more_ = 0;
};

class ArceeFusion final : public CpuStep {
 public:
  explicit ArceeFusion(const CpuJob& job)
      : CpuStep(job),
        size_(job.lines.size),
        rows_(size_ ? job.elements / size_ : 0),
        sampling_(size_ ? 2 : 0),
        sums_(rows_),
        divergences_(rows_) {
    // Of the ascending order; one more element, below all others, so that the smallest one has a cut too.
    for (uint64_t quarter = 1; quarter <= 3; ++quarter) {
      selections_.emplace_back(job.elements + 1, job.elements - quarter * (job.elements - 1) / 4);
    }
  }

  // Without rows the sample pass reads no words.
  std::vector<uint32_t> begin() override { return {0}; }

  void consume(size_t kernel, std::span<const uint32_t> partials, uint64_t firstBlock) override {
    if (kernel < sampling_) {
      addRows(kernel, partials, firstBlock);
    } else if (kernel == sampling_) {
      constexpr size_t words = kSampleWords;
      for (size_t i = 0; (i + 1) * words <= partials.size(); ++i) {
        for (Selection& selection : selections_) selection.sample(partials.subspan(i * words, words), firstBlock + i);
      }
    } else {
      constexpr size_t words = kSelectWords;
      for (size_t i = 0; (i + 1) * words <= partials.size(); ++i) {
        selections_[i % 3].hits(partials.subspan(i * words, words), firstBlock + i / 3);
      }
    }
  }

  Outcome finish(size_t kernel) override {
    if (kernel < sampling_) {
      kernel == 0 ? setSums() : setWeights();
      return {{0}, false, {}};
    }
    for (Selection& selection : selections_) kernel == sampling_ ? selection.aim() : selection.close();
    std::vector<uint32_t> words(size_ ? 1 : 0);
    if (std::all_of(selections_.begin(), selections_.end(), [](const auto& s) { return s.done(); })) {
      words.push_back(thresholdKey());
      return {std::move(words), false, {}};
    }
    for (const Selection& selection : selections_) selection.bracketWords(words);
    return {std::move(words), kernel > sampling_, {}};
  }

  std::vector<uint32_t> part(uint64_t first, uint64_t elements) const override {
    if (!size_) return {};
    std::vector<uint32_t> words = {static_cast<uint32_t>(first % size_), static_cast<uint32_t>(size_)};
    const size_t each = rowWords_.size() / rows_;
    const auto at = [&](uint64_t row) { return rowWords_.begin() + static_cast<std::ptrdiff_t>(row * each); };
    words.insert(words.end(), at(first / size_), at((first + elements - 1) / size_ + 1));
    return words;
  }

 private:
  void addRows(size_t stage, std::span<const uint32_t> partials, uint64_t firstBlock) {
    const uint64_t slots = (kBlock - 2 + size_) / size_ + 1;
    const uint64_t words = stage == 0 ? 5 : 1;
    for (uint64_t block = 0; block * slots * words < partials.size(); ++block) {
      uint64_t row = (firstBlock + block) * kBlock / size_;
      for (uint64_t slot = 0; slot < slots && row < rows_; ++slot, ++row) {
        const uint32_t* at = &partials[(block * slots + slot) * words];
        const auto value = [&](size_t i) { return std::bit_cast<float>(at[i]); };
        if (stage == 1) {
          divergences_[row] += value(0);
        } else {
          sums_[row].add({value(0), value(1), value(2), value(3), value(4)});
        }
      }
    }
  }

  void setSums() {
    for (const RowSums& sums : sums_) {
      const auto words = floatWords({sums.model(), sums.shift()});
      rowWords_.insert(rowWords_.end(), words.begin(), words.end());
    }
  }

  // Only their ratios matter: they are brought to 1 and below, so that no importance is too large or small for f32.
  // A row with numbers that are not finite has no weight.
  void setWeights() {
    double most = 0;
    for (uint64_t row = 0; row < rows_; ++row) {
      // The kernel's softmax is that of the rounded word.
      divergences_[row] *= std::exp(std::bit_cast<float>(rowWords_[2 * row]) - sums_[row].model());
      if (!std::isfinite(divergences_[row])) divergences_[row] = 0;
      most = std::max(most, divergences_[row]);
    }
    for (double& divergence : divergences_) divergence = most > 0 ? divergence / most : 0;
    rowWords_ = floatWords(divergences_);
    sums_ = {};
    divergences_ = {};
  }

  // A key is the bits of a float, plus 1. An element is taken if its importance is not below the threshold.
  uint32_t thresholdKey() const {
    std::array<double, 3> quartiles{};
    for (size_t i = 0; i < 3; ++i) quartiles[i] = std::bit_cast<float>(selections_[i].threshold() - 1);
    const double threshold = quartiles[1] + 1.5 * (quartiles[2] - quartiles[0]);
    if (std::isnan(threshold)) return UINT32_MAX;
    auto above = static_cast<float>(threshold);
    if (above < threshold) above = std::nextafter(above, std::numeric_limits<float>::infinity());
    return std::bit_cast<uint32_t>(above) + 1;
  }

  const uint64_t size_, rows_;  // elements a row, rows; 0 where there is one
  const size_t sampling_;       // the first kernel after the divergences
  std::vector<RowSums> sums_;
  std::vector<double> divergences_;
  std::vector<uint32_t> rowWords_;  // for the kernel at hand
  std::vector<Selection> selections_;
};

}  // namespace

std::unique_ptr<CpuStep> make_arcee_fusion(const CpuJob& job) { return std::make_unique<ArceeFusion>(job); }

}  // namespace weightsmith
