#include "linalg/product.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "linalg/columns.h"
#include "linalg/share.h"

namespace weightsmith {
namespace {

constexpr size_t kRows = 16;        // of the result in a block: as many serve each row of B
constexpr size_t kColumns = 128;    // and columns: the block stays in the cache
constexpr size_t kAlone = 1 << 21;  // fewer multiplications are not worth a thread

}  // namespace

std::vector<double> product(std::span<const double> a, std::span<const double> b, size_t rows, size_t inner,
                            size_t columns) {
  if (a.size() != rows * inner || b.size() != inner * columns) {
    throw Error(Code::ARGUMENT, "Matrices of " + std::to_string(a.size()) + " and " + std::to_string(b.size()) +
                                    " numbers are not " + std::to_string(rows) + " x " + std::to_string(inner) +
                                    " and " + std::to_string(inner) + " x " + std::to_string(columns) + ".");
  }
  std::vector<double> result(rows * columns);
  const Share share(rows * inner * columns >= kAlone);
  const size_t across = (columns + kColumns - 1) / kColumns;
  share((rows + kRows - 1) / kRows * across, [&](size_t block) {
    const size_t top = block / across * kRows;
    const size_t left = block % across * kColumns;
    const size_t bottom = std::min(rows, top + kRows);
    const size_t width = std::min(columns - left, kColumns);
    for (size_t k = 0; k < inner; k++) {
      const double* line = &b[k * columns + left];
      for (size_t i = top; i < bottom; i++) {
        const double x = a[i * inner + k];
        double* sum = &result[i * columns + left];
        for (size_t j = 0; j < width; j++) sum[j] += x * line[j];
      }
    }
  });
  return result;
}

std::vector<double> transposed(std::span<const double> matrix, size_t rows, size_t columns) {
  return std::move(Columns::from(matrix, rows, columns).values());
}

}  // namespace weightsmith
