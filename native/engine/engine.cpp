#include "engine/engine.h"

#include "base/thread_pool.h"
#include "gpu/pipelines.h"

namespace weightsmith {

namespace {
constexpr size_t kReaders = 2;
constexpr size_t kWriters = 2;
constexpr size_t kHashers = 2;
const char kClosed[] = "The engine is closed.";

// What `work` throws, if it does.
std::optional<Error> attempt(const std::function<void()>& work) {
  try {
    work();
    return std::nullopt;
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error(Code::OUT_OF_MEMORY, "The process has no memory left for this run.");
  } catch (const std::exception& error) {
    return Error(Code::INTERNAL, std::string("The run fails: ") + error.what());
  }
}

}  // namespace

Engine::Engine(const OpenOptions& options)
    : device_(Device::open(options)), facts_(device_->facts()), mapped_(device_->mapped()), kernels_(options.kernels) {
  thread_ = std::thread([this] {
    work();
    {
      std::lock_guard lock(mutex_);
      halted_ = true;
    }
    ended_.notify_all();
  });
}

Engine::~Engine() { close(); }

void Engine::halt() {
  std::unique_lock lock(mutex_);
  closing_ = true;
  if (running_) running_->abort = true;
  wake_.notify_all();
  ended_.wait(lock, [this] { return halted_; });
}

void Engine::close() {
  halt();
  if (thread_.joinable()) thread_.join();
  device_.reset();
}

void Engine::submit(std::shared_ptr<Task> task) {
  {
    std::lock_guard lock(mutex_);
    if (!closing_) {
      queue_.push_back(std::move(task));
      wake_.notify_one();
      return;
    }
  }
  task->onDone(Error(Code::DISPOSED, kClosed));
  end(*task);
}

void Engine::withdraw(Task& task) {
  task.abort = true;
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&task] { return task.ended; });
}

void Engine::end(Task& task) {
  {
    std::lock_guard lock(mutex_);
    task.ended = true;
  }
  ended_.notify_all();
}

void Engine::work() {
  ThreadPool readers(kReaders), writers(kWriters), hashers(kHashers);
  std::optional<ThreadPool> workers;
  if (mapped_ && facts_.type == "cpu") workers.emplace(std::thread::hardware_concurrency());
  std::optional<Pipelines> pipelines;
  BufferCache cache;
  BufferRegistry buffers;
  while (true) {
    std::shared_ptr<Task> task;
    bool closing = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
      running_ = task;
      closing = closing_;
    }
    std::optional<Error> error;
    if (closing) {
      error = Error(Code::DISPOSED, kClosed);
    } else {
      error = attempt([&] {
        device_->check();
        if (!pipelines) pipelines.emplace(*device_, kernels_);
        const RunContext context{*device_, *pipelines, readers, writers, hashers, workers ? &*workers : nullptr,
                                 cache,    buffers};
        task->work(context);
      });
      // Whatever came of the task. A device that is lost here says so to the next one.
      attempt([&] { device_->reclaim(); });
    }
    {
      std::lock_guard lock(mutex_);
      running_.reset();
      if (closing_ && error && error->code == Code::ABORTED) error = Error(Code::DISPOSED, kClosed);
    }
    task->onDone(std::move(error));
    end(*task);
  }
}

}  // namespace weightsmith
