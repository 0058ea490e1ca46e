#include "linalg/low_rank.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "linalg/product.h"
#include "linalg/qr.h"
#include "linalg/svd.h"

namespace weightsmith {
namespace {

void checkRank(size_t outputs, size_t inputs, size_t rank) {
  if (rank >= 1 && rank <= std::min(outputs, inputs)) return;
  throw Error(Code::ARGUMENT, "A weight of " + std::to_string(outputs) + " x " + std::to_string(inputs) +
                                  " has no factors of rank " + std::to_string(rank) + ".");
}

// R of a matrix with so many columns, or the matrix itself where it has fewer rows.
std::vector<double> triangle(std::span<const double> matrix, size_t rows, size_t columns) {
  if (rows < columns) return {matrix.begin(), matrix.end()};
  return thinQr(matrix, rows, columns).r;
}

}  // namespace

LowRankFactors oloraStart(std::span<const double> weight, size_t outputs, size_t inputs, size_t rank) {
  checkRank(outputs, inputs, rank);
  std::vector<double> first(outputs * rank);
  for (size_t i = 0; i < outputs; i++) std::copy_n(&weight[i * inputs], rank, &first[i * rank]);
  const auto q = thinQr(first, outputs, rank).q;
  // The first rows of R are those of Q^T W.
  const auto a = product(transposed(q, outputs, rank), weight, rank, outputs, inputs);
  return {{a.begin(), a.end()}, {q.begin(), q.end()}};
}

LowRankFactors pissaStart(std::span<const double> weight, size_t outputs, size_t inputs, size_t rank, double scale) {
  checkRank(outputs, inputs, rank);
  const size_t values = std::min(outputs, inputs);
  const Svd svd = smallSvd(weight, outputs, inputs);
  LowRankFactors factors{std::vector<float>(rank * inputs), std::vector<float>(outputs * rank)};
  for (size_t k = 0; k < rank; k++) {
    const double root = std::sqrt(svd.s[k] / std::abs(scale));
    const double signedRoot = std::copysign(root, scale);
    for (size_t j = 0; j < inputs; j++) factors.a[k * inputs + j] = static_cast<float>(root * svd.v[j * values + k]);
    for (size_t i = 0; i < outputs; i++) {
      factors.b[i * rank + k] = static_cast<float>(signedRoot * svd.u[i * values + k]);
    }
  }
  return factors;
}

std::vector<double> productValues(std::span<const double> b, std::span<const double> a, size_t outputs, size_t rank,
                                  size_t inputs) {
  const auto left = triangle(b, outputs, rank);
  const auto right = triangle(transposed(a, rank, inputs), inputs, rank);
  const size_t rows = left.size() / rank;
  const size_t columns = right.size() / rank;
  const auto inner = product(left, transposed(right, columns, rank), rows, rank, columns);
  return smallSvd(inner, rows, columns).s;
}

}  // namespace weightsmith
