// DARE with the exact rescale 1 / density. Kernel: dare.
// Coefficients: lambda, normalize, consensus (1: TIES), rescale, weight a model, density a model, and for DELLA epsilon
// a model.
#include "steps/dare.h"

#include <bit>
#include <cmath>

#include "steps/consensus.h"

namespace weightsmith {
namespace {

// An element is kept if its random word is not below this.
uint32_t dropLimit(double density) {
  const double limit = std::floor((1 - density) * 0x1p32);
  return limit >= 0x1p32 ? UINT32_MAX : limit <= 0 ? 0 : static_cast<uint32_t>(limit);
}

// The same by rank, for DELLA: the limit of the smallest element of a row, and what each rank takes off it, so that the
// largest is kept with probability density + epsilon. A row of one element has no ranks.
std::vector<double> rankLimits(double density, double epsilon, uint64_t row) {
  if (density >= 1 || density <= 0) return {0, 0};
  if (row < 2) return {(1 - density) * 0x1p32, 0};
  return {(1 - density + epsilon) * 0x1p32, 2 * epsilon * 0x1p32 / static_cast<double>(row - 1)};
}

class Dare final : public CpuStep {
 public:
  using CpuStep::CpuStep;

  std::vector<uint32_t> begin() override {
    const size_t models = job_.inputs - 1;
    std::vector<double> rescale(models, 1);
    for (size_t i = 0; i < models; ++i) {
      const double density = job_.coefficients.at(4 + models + i);
      if (job_.coefficients[3] != 0 && density > 0) rescale[i] = 1 / density;
    }
    return dareWords(job_, rescale);
  }

  void consume(size_t, std::span<const uint32_t>, uint64_t) override {}
  Outcome finish(size_t) override { return {}; }
};

}  // namespace

std::vector<uint32_t> dareWords(const CpuJob& job, std::span<const double> rescale) {
  const size_t models = job.inputs - 1;
  const std::span<const double> weights = std::span(job.coefficients).subspan(4, models);
  const bool ranked = job.coefficients.size() > 4 + 2 * models;
  std::vector<uint32_t> words(job.lines.size ? 1 : 0);  // where the masks are
  for (size_t i = 0; i < models; ++i) {
    const double density = job.coefficients.at(4 + models + i);
    // A limit cannot say "drop all" (2^32): at density 0 the weight is 0 instead.
    const double weight = density <= 0 ? 0 : weights[i] * rescale[i];
    if (ranked) {
      const auto limits = floatWords(rankLimits(density, job.coefficients.at(4 + 2 * models + i), job.row));
      words.insert(words.end(), limits.begin(), limits.end());
    } else {
      words.push_back(dropLimit(density));
    }
    words.push_back(std::bit_cast<uint32_t>(static_cast<float>(weight)));
  }
  if (ranked) words.push_back(static_cast<uint32_t>(job.row));
  const double lambda = job.coefficients[0];
  const bool normalize = job.coefficients[1] != 0;
  std::vector<double> scales;
  if (job.coefficients[2] != 0) {
    scales = agreementScales(lambda, normalize, weights);
  } else {
    scales = {normalize ? lambda / sumDivisor(weights) : lambda};
  }
  const auto tail = floatWords(scales);
  words.insert(words.end(), tail.begin(), tail.end());
  return words;
}

std::unique_ptr<CpuStep> make_dare(const CpuJob& job) { return std::make_unique<Dare>(job); }

}  // namespace weightsmith
