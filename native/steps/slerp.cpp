// SLERP of two tensors seen as vectors: the angle comes from normalised vectors, the coefficients apply to the
// tensors as they are (mergekit's rule). Kernels: dots, linear. Coefficients: t.
#include <bit>
#include <cmath>

#include "steps/cpu_step.h"

namespace weightsmith {
namespace {

constexpr double kParallel = 0.9995;  // beyond this |cos| the sines lose their figures: interpolate linearly
constexpr double kSmallNorm = 1e-8;   // a vector this short is left as it is

class Slerp final : public CpuStep {
 public:
  using CpuStep::CpuStep;

  void consume(size_t, std::span<const uint32_t> partials, uint64_t) override {
    for (size_t i = 0; i + 3 <= partials.size(); i += 3) {
      for (size_t j = 0; j < 3; ++j) sums_[j] += std::bit_cast<float>(partials[i + j]);
    }
  }

  Outcome finish(size_t) override {
    const double t = job_.coefficients.at(0);
    const double a = length(sums_[0]);
    const double b = length(sums_[1]);
    const double cosine = sums_[2] / (a * b);
    // Written so that a NaN (from a tensor with NaN in it) takes the linear branch.
    if (!(std::abs(cosine) <= kParallel)) return {floatWords({1 - t, t}), false, {}};
    const double angle = std::acos(cosine);
    const double sine = std::sin(angle);
    return {floatWords({std::sin((1 - t) * angle) / sine, std::sin(t * angle) / sine}), false, {}};
  }

 private:
  static double length(double square) {
    const double norm = std::sqrt(square);
    return norm > kSmallNorm ? norm : 1;
  }

  double sums_[3] = {0, 0, 0};
};

}  // namespace

std::unique_ptr<CpuStep> make_slerp(const CpuJob& job) { return std::make_unique<Slerp>(job); }

}  // namespace weightsmith
