// What the methods that combine deltas share in their CPU steps.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "plan/plan.h"

namespace weightsmith {

// A sum of weights that is as good as zero divides by one instead (mergekit's rule).
inline double divisor(double sum) { return std::abs(sum) < 1e-8 ? 1 : sum; }

// What a sum of all models is divided by where it is normalised.
inline double sumDivisor(std::span<const double> weights) {
  double sum = 0;
  for (double weight : weights) sum += weight;
  return divisor(sum);
}

// What a kernel needs to add the weights of those that agree up itself (see include/consensus.wgsl). Sums that are zero
// but for their rounding count as zero.
inline std::vector<double> summedScales(double lambda, bool normalize, std::span<const double> weights) {
  std::vector<double> words(weights.size());
  double total = 0;
  for (size_t i = 0; normalize && i < weights.size(); ++i) {
    words[i] = weights[i];
    total += std::abs(weights[i]);
  }
  words.insert(words.end(), {lambda, 1e-8 + total * 0x1p-22, lambda});
  return words;
}

// For every set of models (bit i: model i agrees): lambda, over the sum of their weights where normalised.
inline std::vector<double> agreementScales(double lambda, bool normalize, std::span<const double> weights) {
  if (weights.size() > kElectionTable) return summedScales(lambda, normalize, weights);
  std::vector<double> scales(size_t{1} << weights.size(), lambda);
  if (!normalize) return scales;
  for (size_t set = 0; set < scales.size(); ++set) {
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (set >> i & 1) sum += weights[i];
    }
    scales[set] = lambda / divisor(sum);
  }
  return scales;
}

// The same, over how many models agree.
inline std::vector<double> countScales(double lambda, bool normalize, size_t models) {
  if (models > kElectionTable) return summedScales(lambda, normalize, std::vector<double>(models, 1));
  std::vector<double> scales(size_t{1} << models, lambda);
  if (!normalize) return scales;
  for (size_t set = 0; set < scales.size(); ++set) scales[set] = lambda / std::max(1, std::popcount(uint64_t{set}));
  return scales;
}

}  // namespace weightsmith
