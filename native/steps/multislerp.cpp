// Multi-SLERP: the weighted mean of the directions, at the weighted mean of the lengths. The step in the tangent space
// at that mean adds up to nothing by construction (the mean is where it vanishes), so only the mean is left.
// Parameters: eps, a weight a vector.
#include "steps/gram.h"

namespace weightsmith {
namespace {

std::vector<double> multislerp(const Gram& gram, std::span<const double> parameters) {
  const double eps = parameters[0];
  const auto weights = parameters.subspan(1);
  std::vector<double> mean(gram.size());
  double length = 0;
  for (size_t i = 0; i < gram.size(); ++i) {
    mean[i] = weights[i] / (gram.norm(i) + eps);
    length += weights[i] * gram.norm(i);
  }
  const double norm = gram.norm(mean);
  // Directions that cancel (or vectors of zeros) have no mean direction: take the mean of the vectors.
  if (!(norm >= eps) || norm == 0) return {weights.begin(), weights.end()};
  for (double& factor : mean) factor *= length / norm;
  return mean;
}

}  // namespace

std::unique_ptr<CpuStep> make_multislerp(const CpuJob& job) { return makeGramStep(job, multislerp); }

}  // namespace weightsmith
