// What the factorisations share: work that is divided among the cores of the machine so that no number depends on how
// many there are, and the product whose sum has a fixed order.
#pragma once
#include <cstddef>
#include <functional>
#include <optional>

#include "base/thread_pool.h"

namespace weightsmith {

class Share {
 public:
  // Small matrices are not worth a thread: everything then runs where it is called.
  explicit Share(bool large);

  // Runs work(0) .. work(count - 1), each of them alone with what it writes.
  void operator()(size_t count, const std::function<void(size_t)>& work) const;

 private:
  mutable std::optional<ThreadPool> pool_;
};

inline double dot(const double* a, const double* b, size_t count) {
  constexpr size_t kLanes = 4;
  double sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t l = 0; l < kLanes; l++) sums[l] += a[i + l] * b[i + l];
  }
  for (; i < count; i++) sums[0] += a[i] * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace weightsmith
