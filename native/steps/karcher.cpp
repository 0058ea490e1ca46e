// Karcher mean: the point of the sphere with the least sum of squared angles to the directions of the vectors, scaled
// to their mean length. Every iterate is a combination of the vectors, so the Gram matrix is all that is needed.
// Parameters: largest number of iterations, tolerance.
#include "steps/gram.h"

namespace weightsmith {
namespace {

std::vector<double> karcher(const Gram& gram, std::span<const double> parameters) {
  const size_t n = gram.size();
  const double iterations = parameters[0], tolerance = parameters[1];
  std::vector<size_t> valid;  // vectors long enough to have a direction
  double length = 0;
  for (size_t i = 0; i < n; ++i) {
    length += gram.norm(i) / static_cast<double>(n);
    if (gram.norm(i) > tolerance) valid.push_back(i);
  }
  const double share = 1 / static_cast<double>(valid.empty() ? n : valid.size());
  std::vector<double> mean(n);  // factors of the vectors
  if (valid.empty()) {
    std::fill(mean.begin(), mean.end(), share);
    return mean;
  }
  const auto scale = [](std::vector<double>& factors, double by) {
    for (double& factor : factors) factor *= by;
  };
  for (size_t i : valid) mean[i] = share / gram.norm(i);
  if (const double norm = gram.norm(mean); norm < tolerance) {
    std::fill(mean.begin(), mean.end(), 0.0);
    mean[valid[0]] = 1 / gram.norm(valid[0]);
  } else {
    scale(mean, 1 / norm);
  }
  for (double iteration = 0; iteration < iterations; ++iteration) {
    std::vector<double> tangent(n);
    for (size_t i : valid) {
      double cosine = 0;
      for (size_t j : valid) cosine += mean[j] * gram(i, j) / gram.norm(i);
      const double angle = std::acos(std::clamp(cosine, -1.0, 1.0));
      // The way to an opposite point has no direction.
      if (angle < tolerance || std::sin(angle) < tolerance) continue;
      const double factor = share * angle / std::sin(angle);
      tangent[i] += factor / gram.norm(i);
      for (size_t j : valid) tangent[j] -= factor * cosine * mean[j];
    }
    const double norm = gram.norm(tangent);
    if (!(norm >= tolerance)) break;
    for (size_t i : valid) mean[i] = std::cos(norm) * mean[i] + std::sin(norm) / norm * tangent[i];
    if (const double unit = gram.norm(mean); unit > tolerance) scale(mean, 1 / unit);
  }
  scale(mean, length);
  return mean;
}

}  // namespace

std::unique_ptr<CpuStep> make_karcher(const CpuJob& job) { return makeGramStep(job, karcher); }

}  // namespace weightsmith
