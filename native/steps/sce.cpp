// SCE: the cut of the int(select_topk * k) elements that differ most between the models, where k of them differ at all;
// then the weights of the models from the squares of what was selected. Kernels: select_sample, select, sce_squares,
// sce; or the last two where select_topk is 1. Coefficients: select_topk; 1 where small squares count as they are.
#include <algorithm>
#include <bit>
#include <optional>

#include "steps/cpu_step.h"
#include "steps/selection.h"

namespace weightsmith {
namespace {

// Below these mergekit (and the authors) weigh all models alike, and divide by no less.
constexpr double kSmallSquares = 1e-6, kSmallWeights = 1e-6;
// Weights and their reciprocals have to be numbers that f32 holds in full.
constexpr double kLeastWeight = 1e-37;
// In the first select pass: a bracket of the key of 0, above which are the elements that differ.
constexpr uint32_t kZeroKey = 1;

class Sce final : public CpuStep {
 public:
  explicit Sce(const CpuJob& job)
      : CpuStep(job), models_(job.inputs - 1), squaresKernel_(job.coefficients.at(0) < 1 ? 2 : 0), squares_(models_) {}

  // The sample pass reads no words. With nothing to select every key is above the threshold.
  std::vector<uint32_t> begin() override { return {0, 0, 0}; }

  void consume(size_t kernel, std::span<const uint32_t> partials, uint64_t firstBlock) override {
    if (kernel == squaresKernel_) {
      for (size_t i = 0; i < partials.size(); ++i) squares_[i % models_] += std::bit_cast<float>(partials[i]);
      return;
    }
    const size_t words = kernel == 0 ? kSampleWords : kSelectWords;
    for (size_t i = 0; (i + 1) * words <= partials.size(); ++i) {
      const auto block = partials.subspan(i * words, words);
      if (kernel == 0)
        sample_.insert(sample_.end(), block.begin(), block.end());
      else if (selection_)
        selection_->hits(block, firstBlock + i);
      else
        different_ += block[0];
    }
  }

  Outcome finish(size_t kernel) override {
    if (kernel == squaresKernel_) return {finalWords(), false, {}};
    if (kernel == 0) return {{kZeroKey, 0, 0, 1}, false, {}};
    if (!selection_) {
      const auto keep = static_cast<uint64_t>(job_.coefficients[0] * static_cast<double>(different_));
      selection_.emplace(job_.elements, keep);
      for (size_t i = 0; i < sample_.size(); i += kSampleWords) {
        selection_->sample(std::span(sample_).subspan(i, kSampleWords), i / kSampleWords);
      }
      sample_ = {};
      selection_->aim();
    } else {
      selection_->close();
    }
    if (selection_->done()) return {cutWords(), false, {}};
    std::vector<uint32_t> words;
    selection_->bracketWords(words);
    return {std::move(words), true, {}};
  }

 private:
  std::vector<uint32_t> cutWords() const {
    if (!selection_) return {0, 0, 0};
    const uint64_t cut = selection_->cut();
    return {selection_->threshold(), static_cast<uint32_t>(cut), static_cast<uint32_t>(cut >> 32)};
  }

  std::vector<uint32_t> finalWords() const {
    const bool exact = job_.coefficients.at(1) != 0;
    double total = 0;
    for (double square : squares_) total += square / static_cast<double>(job_.elements);
    std::vector<double> weights(models_, 1 / static_cast<double>(models_));
    if (exact ? total > 0 : total >= kSmallSquares) {
      for (size_t i = 0; i < models_; ++i) weights[i] = squares_[i] / static_cast<double>(job_.elements) / total;
    }
    if (exact) {
      for (double& weight : weights) weight = weight < kLeastWeight ? 0 : weight;
    }
    std::vector<uint32_t> words = cutWords();
    for (const auto& values : {floatWords(weights), floatWords(scalesOf(weights, exact))}) {
      words.insert(words.end(), values.begin(), values.end());
    }
    return words;
  }

  // 1 over the sum of the weights that agree, as include/consensus.wgsl has it.
  static std::vector<double> scalesOf(std::vector<double> weights, bool exact) {
    if (weights.size() > kElectionTable) {
      const double least = exact ? kLeastWeight : kSmallWeights;
      weights.insert(weights.end(), {1, least, exact ? 0 : 1 / least});
      return weights;
    }
    std::vector<double> scales(size_t{1} << weights.size());
    for (size_t set = 0; set < scales.size(); ++set) {
      double sum = 0;
      for (size_t i = 0; i < weights.size(); ++i) {
        if (set >> i & 1) sum += weights[i];
      }
      scales[set] = !exact ? 1 / std::max(sum, kSmallWeights) : sum > 0 ? 1 / sum : 0;
    }
    return scales;
  }

  const size_t models_;
  const size_t squaresKernel_;
  std::vector<uint32_t> sample_;
  uint64_t different_ = 0;
  std::optional<Selection> selection_;
  std::vector<double> squares_;
};

}  // namespace

std::unique_ptr<CpuStep> make_sce(const CpuJob& job) { return std::make_unique<Sce>(job); }

}  // namespace weightsmith
