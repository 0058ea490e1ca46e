// Methods whose result lies in the span of the inputs need one reduction, the inner products of the inputs, and then
// only arithmetic on a small matrix: each is a function from that matrix to the factors of the inputs.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "steps/cpu_step.h"

namespace weightsmith {

// Inner products of n vectors.
class Gram {
 public:
  Gram(std::span<const double> triangle, size_t size) : triangle_(triangle), size_(size) {}
  size_t size() const { return size_; }
  double operator()(size_t i, size_t j) const {
    if (i < j) std::swap(i, j);
    return triangle_[i * (i + 1) / 2 + j];
  }
  double norm(size_t i) const { return std::sqrt((*this)(i, i)); }
  // Of two combinations of the vectors.
  double dot(std::span<const double> a, std::span<const double> b) const;
  double norm(std::span<const double> a) const { return std::sqrt(std::max(0.0, dot(a, a))); }

 private:
  std::span<const double> triangle_;
  size_t size_;
};

// The factors of the vectors in the result; `parameters` are the method's own.
using Combine = std::vector<double> (*)(const Gram& gram, std::span<const double> parameters);

// Whose the parameters behind the first coefficient are: those of the whole tensor, or one of each line.
enum class Parameters { kCommon, kOfLines };

// Kernels: gram, then linear (or delta, with a base). Coefficients: 1 with a base, else 0; then the method's own.
std::unique_ptr<CpuStep> makeGramStep(const CpuJob& job, Combine combine, Parameters whose = Parameters::kCommon);

}  // namespace weightsmith
