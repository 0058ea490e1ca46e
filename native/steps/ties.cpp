// TIES and breadcrumbs: the exact cuts of each model's delta (within a tensor, or within all tensors that share the
// step), then the words of the `ties` kernel. Kernels: select_sample, select, ties_facts (for a rescale or drawn
// elections only), ties.
// Coefficients: TRIM_LAMBDA to TRIM_WEIGHTS of layout.wgsl.
#include <algorithm>
#include <bit>
#include <map>

#include "steps/consensus.h"
#include "steps/cpu_step.h"
#include "steps/selection.h"

namespace weightsmith {
namespace {

// How many elements a cut keeps of all the tensors it is made over: int(density * elements). Where densities differ
// between the tensors, of the sum of their shares.
class Quota {
 public:
  void add(double share, uint64_t elements) { elements_[share] += elements; }
  uint64_t count() const {
    double sum = 0;
    for (const auto& [share, elements] : elements_) sum += share * static_cast<double>(elements);
    return static_cast<uint64_t>(sum);
  }

 private:
  std::map<double, uint64_t> elements_;
};

// What the tensors of one trim have in common: just one tensor, unless the step is shared.
struct Trim {
  uint64_t elements = 0;
  std::vector<Quota> densities, gammas;  // a model
  std::vector<Selection> selections;     // a model: the cut below, and for breadcrumbs the cut above
  std::vector<double> facts;             // sums of the words of `ties_facts`
};

class Ties final : public CpuStep {
 public:
  explicit Ties(const CpuJob& job)
      : CpuStep(job), models_(job.inputs - 1), bands_(job.coefficients.size() > kTrimWeights + 2 * models_) {
    const auto* first = static_cast<const Ties*>(job.first);
    trim_ = first ? first->trim_ : std::make_shared<Trim>();
    trim_->densities.resize(models_);
    trim_->gammas.resize(models_);
    trim_->facts.resize(2 * job.inputs);
    trim_->elements += job.elements;
    for (size_t i = 0; i < models_; ++i) {
      trim_->densities[i].add(densityOf(i), job.elements);
      trim_->gammas[i].add(gammaOf(i), job.elements);
    }
  }

  // The sample pass reads no words; by now all tensors of the trim are known.
  std::vector<uint32_t> begin() override {
    if (job_.first) return {};
    for (size_t i = 0; i < models_; ++i) {
      const uint64_t kept = trim_->densities[i].count();
      // Fewer outliers go where that would leave too little to keep.
      const uint64_t top = std::min(trim_->gammas[i].count(), trim_->elements - kept);
      trim_->selections.emplace_back(trim_->elements, top + kept);
      if (bands_) trim_->selections.emplace_back(trim_->elements, top);
    }
    return {};
  }

  void consume(size_t kernel, std::span<const uint32_t> partials, uint64_t firstBlock) override {
    auto& selections = trim_->selections;
    const uint64_t block = job_.firstBlock + firstBlock;
    const size_t cuts = bands_ ? 2 : 1;
    if (kernel == 0) {
      constexpr size_t words = kSampleWords;
      for (size_t i = 0; (i + 1) * words <= partials.size(); ++i) {
        for (size_t c = 0; c < cuts; ++c) {
          selections[i % models_ * cuts + c].sample(partials.subspan(i * words, words), block + i / models_);
        }
      }
    } else if (kernel == 1) {
      constexpr size_t words = kSelectWords;
      for (size_t i = 0; (i + 1) * words <= partials.size(); ++i) {
        selections[i % selections.size()].hits(partials.subspan(i * words, words), block + i / selections.size());
      }
    } else {
      auto& facts = trim_->facts;
      for (size_t i = 0; i < partials.size(); ++i) {
        const size_t j = i % facts.size();
        facts[j] += j < 2 * models_ ? std::bit_cast<float>(partials[i]) : partials[i];
      }
    }
  }

  Outcome finish(size_t kernel) override {
    auto& selections = trim_->selections;
    if (!job_.first && kernel <= 1) {
      for (Selection& selection : selections) {
        if (kernel == 0)
          selection.aim();
        else
          selection.close();
      }
    }
    const bool found = std::all_of(selections.begin(), selections.end(), [](const auto& s) { return s.done(); });
    if (kernel > 1 || (kernel == 1 && found)) return {finalWords(kernel > 1), false, {}};
    std::vector<uint32_t> words;
    for (const Selection& selection : selections) selection.bracketWords(words);
    return {std::move(words), kernel == 1, {}};
  }

 private:
  double densityOf(size_t model) const { return job_.coefficients.at(kTrimWeights + models_ + model); }
  // Nothing is trimmed at density 1, outliers included.
  double gammaOf(size_t model) const {
    return bands_ && densityOf(model) < 1 ? job_.coefficients.at(kTrimWeights + 2 * models_ + model) : 0;
  }

  void cutWords(const Selection& selection, std::vector<uint32_t>& words) const {
    const uint64_t before = job_.firstBlock * kBlock;
    const uint64_t cut = selection.cut() > before ? selection.cut() - before : 0;
    words.insert(words.end(), {selection.threshold(), static_cast<uint32_t>(cut), static_cast<uint32_t>(cut >> 32)});
  }

  std::vector<uint32_t> finalWords(bool facts) const {
    const double lambda = job_.coefficients[kTrimLambda];
    const bool normalize = job_.coefficients[kTrimNormalize] != 0;
    const auto consensus = static_cast<uint64_t>(job_.coefficients[kTrimConsensus]);
    const bool rescale = facts && job_.coefficients[kTrimRescale] != 0;
    const std::span<const double> weights = std::span(job_.coefficients).subspan(kTrimWeights, models_);
    const size_t cuts = bands_ ? 2 : 1;
    std::vector<uint32_t> words;
    for (size_t i = 0; i < models_; ++i) {
      for (size_t c = 0; c < cuts; ++c) cutWords(trim_->selections[i * cuts + c], words);
      const double kept = trim_->facts[2 * i + 1];
      const double factor = rescale && kept > 0 ? trim_->facts[2 * i] / kept : 1;
      words.push_back(std::bit_cast<uint32_t>(static_cast<float>(weights[i] * factor)));
    }
    std::vector<double> scales;
    if (consensus == kConsensusSum)
      scales = {normalize ? lambda / sumDivisor(weights) : lambda};
    else if (consensus == kConsensusMergekit)
      scales = agreementScales(lambda, normalize, weights);
    else
      scales = countScales(lambda, normalize, models_);
    const auto table = floatWords(scales);
    words.insert(words.end(), table.begin(), table.end());
    const size_t votes = 2 * models_;
    if (consensus == kConsensusReference) words.push_back(trim_->facts[votes] < trim_->facts[votes + 1] ? 1 : 0);
    return words;
  }

  const size_t models_;
  const bool bands_;
  std::shared_ptr<Trim> trim_;
};

}  // namespace

std::unique_ptr<CpuStep> make_ties(const CpuJob& job) { return std::make_unique<Ties>(job); }

}  // namespace weightsmith
