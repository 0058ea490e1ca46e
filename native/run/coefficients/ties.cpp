// TIES: the exact cut of each model's delta, then the tables of the `ties` kernel. Kernels: select_sample, select,
// ties; or ties alone where every density keeps all or nothing.
// Coefficients: lambda, normalize, weight a model, density a model.
#include <bit>

#include "run/coefficients/consensus.h"
#include "run/coefficients/host_step.h"
#include "run/selection.h"

namespace weightsmith {
namespace {

class Ties final : public HostStep {
 public:
  explicit Ties(const HostJob& job) : HostStep(job), models_(job.inputs - 1) {
    for (size_t i = 0; i < models_; ++i) {
      const double density = job.coefficients.at(2 + models_ + i);
      selections_.emplace_back(job.elements, static_cast<uint64_t>(density * static_cast<double>(job.elements)));
    }
  }

  // The sample pass reads no words, so these serve a program of the `ties` kernel alone.
  std::vector<uint32_t> begin() override { return finished() ? finalWords() : std::vector<uint32_t>{}; }

  void consume(size_t kernel, std::span<const uint32_t> partials, uint64_t firstBlock) override {
    const size_t words = kernel == 0 ? Selection::kSampleWords : Selection::kSelectWords;
    for (size_t i = 0; (i + 1) * words <= partials.size(); ++i) {
      Selection& selection = selections_[i % models_];
      const uint64_t block = firstBlock + i / models_;
      if (kernel == 0)
        selection.sample(partials.subspan(i * words, words), block);
      else
        selection.hits(partials.subspan(i * words, words), block);
    }
  }

  Outcome finish(size_t kernel) override {
    for (Selection& selection : selections_) {
      if (kernel == 0)
        selection.aim();
      else
        selection.close();
    }
    if (kernel != 0 && finished()) return {finalWords(), false, {}};
    std::vector<uint32_t> words;
    for (const Selection& selection : selections_) selection.bracketWords(words);
    return {std::move(words), kernel != 0, {}};
  }

 private:
  bool finished() const {
    for (const Selection& selection : selections_) {
      if (!selection.done()) return false;
    }
    return true;
  }

  std::vector<uint32_t> finalWords() const {
    const std::span<const double> weights = std::span(job_.coefficients).subspan(2, models_);
    std::vector<uint32_t> words;
    for (size_t i = 0; i < models_; ++i) {
      const uint64_t cut = selections_[i].cut();
      words.insert(words.end(),
                   {selections_[i].threshold(), static_cast<uint32_t>(cut), static_cast<uint32_t>(cut >> 32),
                    std::bit_cast<uint32_t>(static_cast<float>(weights[i]))});
    }
    const auto table = floatWords(agreementScales(job_.coefficients[0], job_.coefficients[1] != 0, weights));
    words.insert(words.end(), table.begin(), table.end());
    return words;
  }

  const size_t models_;
  std::vector<Selection> selections_;
};

}  // namespace

std::unique_ptr<HostStep> make_ties(const HostJob& job) { return std::make_unique<Ties>(job); }

}  // namespace weightsmith
