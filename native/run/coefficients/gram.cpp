#include "run/coefficients/gram.h"

#include <bit>

namespace weightsmith {
namespace {

class GramStep final : public HostStep {
 public:
  GramStep(const HostJob& job, Combine combine)
      : HostStep(job),
        combine_(combine),
        vectors_(job.inputs - (job.coefficients.at(0) != 0 ? 1 : 0)),
        sums_(vectors_ * (vectors_ + 1) / 2) {}

  void consume(size_t, std::span<const uint32_t> partials, uint64_t) override {
    for (size_t i = 0; i < partials.size(); ++i) sums_[i % sums_.size()] += std::bit_cast<float>(partials[i]);
  }

  Outcome finish(size_t) override {
    return {floatWords(combine_({sums_, vectors_}, std::span(job_.coefficients).subspan(1))), false, {}};
  }

 private:
  const Combine combine_;
  const size_t vectors_;
  std::vector<double> sums_;
};

}  // namespace

double Gram::dot(std::span<const double> a, std::span<const double> b) const {
  double sum = 0;
  for (size_t i = 0; i < size_; ++i) {
    for (size_t j = 0; j < size_; ++j) sum += a[i] * b[j] * (*this)(i, j);
  }
  return sum;
}

std::unique_ptr<HostStep> makeGramStep(const HostJob& job, Combine combine) {
  return std::make_unique<GramStep>(job, combine);
}

}  // namespace weightsmith
