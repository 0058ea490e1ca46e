#include "linalg/share.h"

#include <atomic>
#include <thread>

namespace weightsmith {

Share::Share(bool large) {
  if (large) pool_.emplace(std::thread::hardware_concurrency());
}

void Share::operator()(size_t count, const std::function<void(size_t)>& work) const {
  if (!pool_ || count < 2) {
    for (size_t i = 0; i < count; i++) work(i);
    return;
  }
  std::atomic<size_t> next{0};
  Completion completion;
  pool_->submitAll(completion, [&] {
    for (size_t i = next++; i < count; i = next++) work(i);
  });
  completion.wait();
}

}  // namespace weightsmith
