// NuSLERP: the spherical interpolation of two vectors at t. Parameters: t.
#include "steps/gram.h"

namespace weightsmith {
namespace {

constexpr double kSmallNorm = 1e-7;    // a shorter vector has no direction
constexpr double kSmallSine2 = 1e-12;  // sin^2 below which two vectors are parallel

std::vector<double> nuslerp(const Gram& gram, std::span<const double> parameters) {
  const double t = parameters[0];
  const double lengths = std::max(gram.norm(0), kSmallNorm) * std::max(gram.norm(1), kSmallNorm);
  const double cosine = std::clamp(gram(0, 1) / lengths, -1.0, 1.0);
  // Written so that a NaN (from a tensor with NaN in it) takes the linear branch.
  if (!(1 - cosine * cosine > kSmallSine2)) return {1 - t, t};
  const double angle = std::acos(cosine);
  const double sine = std::sin(angle);
  return {std::sin((1 - t) * angle) / sine, std::sin(t * angle) / sine};
}

}  // namespace

std::unique_ptr<CpuStep> make_nuslerp(const CpuJob& job) { return makeGramStep(job, nuslerp); }

}  // namespace weightsmith
