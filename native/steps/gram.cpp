#include "steps/gram.h"

#include <bit>
#include <string>

#include "base/error.h"

namespace weightsmith {
namespace {

class GramStep final : public CpuStep {
 public:
  GramStep(const CpuJob& job, Combine combine, Parameters whose)
      : CpuStep(job),
        combine_(combine),
        whose_(whose),
        vectors_(job.inputs - (job.coefficients.at(0) != 0 ? 1 : 0)),
        pairs_(vectors_ * (vectors_ + 1) / 2),
        size_(job.lines.size ? job.lines.size : job.elements),
        lines_(job.lines.across ? size_ : job.elements / size_),
        sums_(pairs_ * lines_) {
    if (whose == Parameters::kOfLines && job.coefficients.size() != 1 + lines_) {
      throw Error(Code::INTERNAL, "a step got " + std::to_string(job.coefficients.size() - 1) + " parameters for " +
                                      std::to_string(lines_) + " lines");
    }
  }

  void consume(size_t, std::span<const uint32_t> partials, uint64_t firstBlock) override {
    const uint64_t slots = slotsOf();
    const uint64_t words = pairs_ * slots;
    for (uint64_t block = 0; block * words < partials.size(); ++block) {
      const uint64_t first = (firstBlock + block) * kBlock;  // element
      for (uint64_t pair = 0; pair < pairs_; ++pair) {
        const uint32_t* values = &partials[block * words + pair * slots];
        double* sums = &sums_[pair * lines_];
        // Slots are consecutive lines; columns begin again after the last one.
        uint64_t line = job_.lines.across ? (size_ < kBlock ? 0 : first % size_) : first / size_;
        for (uint64_t slot = 0; slot < slots; ++slot, ++line) {
          if (line == lines_) {
            if (!job_.lines.across) break;
            line = 0;
          }
          sums[line] += std::bit_cast<float>(values[slot]);
        }
      }
    }
  }

  Outcome finish(size_t) override {
    std::vector<double> triangle(pairs_);
    factors_.reserve(lines_ * vectors_);
    for (uint64_t line = 0; line < lines_; ++line) {
      for (uint64_t pair = 0; pair < pairs_; ++pair) triangle[pair] = sums_[pair * lines_ + line];
      const auto all = std::span(job_.coefficients).subspan(1);
      const auto own = whose_ == Parameters::kOfLines ? all.subspan(line, 1) : all;
      const auto factors = floatWords(combine_({triangle, vectors_}, own));
      factors_.insert(factors_.end(), factors.begin(), factors.end());
    }
    sums_ = {};
    if (job_.lines.size) return {{0}, false, {}};
    return {std::move(factors_), false, {}};
  }

  std::vector<uint32_t> part(uint64_t first, uint64_t elements) const override {
    if (!job_.lines.size) return {};
    std::vector<uint32_t> words = {static_cast<uint32_t>(first % size_), static_cast<uint32_t>(size_)};
    if (factors_.empty()) return words;
    const uint64_t from = job_.lines.across ? 0 : first / size_;
    const uint64_t to = job_.lines.across ? lines_ : (first + elements - 1) / size_ + 1;
    const auto at = [this](uint64_t line) { return factors_.begin() + static_cast<std::ptrdiff_t>(line * vectors_); };
    words.insert(words.end(), at(from), at(to));
    return words;
  }

 private:
  // Of partial results a block and pair; see gram.wgsl and gram_lines.wgsl.
  uint64_t slotsOf() const {
    if (!job_.lines.size) return 1;
    return job_.lines.across ? std::min(size_, kBlock) : (kBlock - 2 + size_) / size_ + 1;
  }

  const Combine combine_;
  const Parameters whose_;
  const size_t vectors_;
  const uint64_t pairs_;
  const uint64_t size_;   // elements a row, or columns
  const uint64_t lines_;  // 1, where the tensor is one vector
  std::vector<double> sums_;
  std::vector<uint32_t> factors_;
};

}  // namespace

double Gram::dot(std::span<const double> a, std::span<const double> b) const {
  double sum = 0;
  for (size_t i = 0; i < size_; ++i) {
    for (size_t j = 0; j < size_; ++j) sum += a[i] * b[j] * (*this)(i, j);
  }
  return sum;
}

std::unique_ptr<CpuStep> makeGramStep(const CpuJob& job, Combine combine, Parameters whose) {
  return std::make_unique<GramStep>(job, combine, whose);
}

}  // namespace weightsmith
