// A fixed set of threads for file reads, writes, hashes and large matrices, and a count of unfinished tasks that
// carries the first failure back to the thread that waits.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"

namespace weightsmith {

/// Counts tasks that are not done. May be destroyed as soon as `wait` returned.
class Completion {
 public:
  void add(size_t tasks = 1);

  /// One task has ended, with an error or without. The first error is kept.
  void done(std::optional<Error> error = std::nullopt);

  /// Blocks until every added task is done; throws the first error. The completion can then be used again.
  void wait();

 private:
  std::mutex mutex_;
  std::condition_variable idle_;
  size_t pending_ = 0;
  std::optional<Error> first_;
};

class ThreadPool {
 public:
  explicit ThreadPool(size_t threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Runs what is still queued, then joins the threads.
  ~ThreadPool();

  /// Queues a task, which must not throw.
  void submit(std::function<void()> task);

  /// Queues a task that may throw: it is added to `completion`, which gets its error and must outlive it.
  void submit(Completion& completion, std::function<void()> task);

  /// Queues such a task once for every thread, for work that its runs divide among each other.
  void submitAll(Completion& completion, const std::function<void()>& task);

 private:
  void work();
  void finish();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool closing_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace weightsmith
