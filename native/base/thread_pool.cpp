// One queue under one lock: tasks are reads of megabytes, so contention does not matter.
#include "base/thread_pool.h"

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

namespace weightsmith {

namespace {

std::optional<Error> run(const std::function<void()>& task) noexcept {
  try {
    task();
    return std::nullopt;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error(Code::OUT_OF_MEMORY, "A task of the thread pool ran out of memory.");
  } catch (const std::exception& error) {
    return Error(Code::INTERNAL, std::string("A task of the thread pool failed: ") + error.what() + ".");
  } catch (...) {
    return Error(Code::INTERNAL, "A task of the thread pool failed with something that is not an exception.");
  }
}

}  // namespace

void Completion::add(size_t tasks) {
  const std::lock_guard lock(mutex_);
  pending_ += tasks;
}

void Completion::done(std::optional<Error> error) {
  const std::lock_guard lock(mutex_);
  if (error && !first_) first_ = std::move(error);
  pending_--;
  // Under the lock, because the waiting thread may destroy this object once it holds the lock.
  if (pending_ == 0) idle_.notify_all();
}

void Completion::wait() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return pending_ == 0; });
  if (first_) {
    const Error error = std::move(*first_);
    first_.reset();
    throw error;
  }
}

ThreadPool::ThreadPool(size_t threads) {
  const size_t count = std::max<size_t>(threads, 1);
  threads_.reserve(count);
  try {
    for (size_t i = 0; i < count; i++) threads_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    finish();
    throw Error(Code::INTERNAL, "Could not start thread " + std::to_string(threads_.size() + 1) + " of " +
                                    std::to_string(count) + ": " + error.what() + ".");
  }
}

ThreadPool::~ThreadPool() { finish(); }

void ThreadPool::finish() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::submit(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void ThreadPool::submit(Completion& completion, std::function<void()> task) {
  completion.add();
  try {
    submit([&completion, task = std::move(task)] { completion.done(run(task)); });
  } catch (...) {
    completion.done();
    throw;
  }
}

void ThreadPool::submitAll(Completion& completion, const std::function<void()>& task) {
  try {
    for (size_t i = 0; i < threads_.size(); i++) submit(completion, task);
  } catch (...) {
    completion.wait();  // for those that began: they may use what the caller is about to give up
    throw;
  }
}

void ThreadPool::work() {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
  }
}

}  // namespace weightsmith
