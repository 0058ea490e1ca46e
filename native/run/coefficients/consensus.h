// What TIES and DARE share on the host.
#pragma once
#include <cmath>
#include <span>
#include <vector>

namespace weightsmith {

// A sum of weights that is as good as zero divides by one instead (mergekit's rule).
inline double divisor(double sum) { return std::abs(sum) < 1e-8 ? 1 : sum; }

// For every subset of models (bit i: model i agrees): lambda, over the sum of their weights where normalised.
inline std::vector<double> agreementScales(double lambda, bool normalize, std::span<const double> weights) {
  std::vector<double> scales(size_t{1} << weights.size(), lambda);
  if (!normalize) return scales;
  for (size_t subset = 0; subset < scales.size(); ++subset) {
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (subset >> i & 1) sum += weights[i];
    }
    scales[subset] = lambda / divisor(sum);
  }
  return scales;
}

}  // namespace weightsmith
