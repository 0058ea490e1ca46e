// Model Stock: how far to go from the base to the mean of the models follows from the mean angle between their
// differences. The vectors are the differences. No parameters.
#include "steps/gram.h"

namespace weightsmith {
namespace {

constexpr double kSmallProduct = 1e-6;  // of two norms; shorter differences count as nearly orthogonal, as in mergekit

std::vector<double> modelStock(const Gram& gram, std::span<const double>) {
  const size_t n = gram.size();
  const double count = static_cast<double>(n);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < i; ++j) {
      sum += std::clamp(gram(i, j) / std::max(gram.norm(i) * gram.norm(j), kSmallProduct), -1.0, 1.0);
    }
  }
  const double cosine = sum / (count * (count - 1) / 2);
  const double denominator = 1 + (count - 1) * cosine;
  const double t = std::abs(denominator) < 1e-6 ? 0 : count * cosine / denominator;
  return std::vector<double>(n, t / count);
}

}  // namespace

std::unique_ptr<CpuStep> make_model_stock(const CpuJob& job) { return makeGramStep(job, modelStock); }

}  // namespace weightsmith
