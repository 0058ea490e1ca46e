// What low-rank changes of weights come from and amount to, in float64; see lib/lora/start.ts and
// lib/adapters/inspect.ts.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

namespace weightsmith {

struct LowRankFactors {
  std::vector<float> a;  // [rank, inputs]
  std::vector<float> b;  // [outputs, rank]
};

// The factors that an adapter of OLoRA (arXiv 2406.01775) begins with, of a weight W [outputs, inputs]: B the first
// columns of Q and A the first rows of R of W = Q R. A rank above one of the sides is an Error ARGUMENT.
LowRankFactors oloraStart(std::span<const double> weight, size_t outputs, size_t inputs, size_t rank);

// The same of PiSSA (arXiv 2404.02948): the leading part of the singular value decomposition, over the scale.
LowRankFactors pissaStart(std::span<const double> weight, size_t outputs, size_t inputs, size_t rank, double scale);

// Singular values of B A, descending, for B [outputs, rank] and A [rank, inputs]: those of the product of two
// triangles.
std::vector<double> productValues(std::span<const double> b, std::span<const double> a, size_t outputs, size_t rank,
                                  size_t inputs);

}  // namespace weightsmith
