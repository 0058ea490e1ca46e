// The engine: one device, one thread that runs what is asked for in the order it comes, and the pools that read and
// write.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/error.h"
#include "dawn/device.h"
#include "stream/executor.h"

namespace weightsmith {

// Work for the engine thread, which calls both functions. `work` is skipped when the engine is closing.
struct Task {
  std::function<void(const RunContext&)> work;
  std::atomic<bool> abort{false};
  std::function<void(std::optional<Error>)> onDone;
  bool ended = false;  // `onDone` has returned; guarded by the engine's mutex
};

class Engine {
 public:
  // Blocks until the device is open; throws what opening throws.
  explicit Engine(const OpenOptions& options);
  // Aborts what runs, rejects what waits with DISPOSED, joins the thread, then drops the device.
  ~Engine();

  const Device& device() const { return *device_; }
  // Of the device, from any thread, also once it is closed.
  const DeviceInfo& facts() const { return facts_; }
  bool mapped() const { return mapped_; }
  void submit(std::shared_ptr<Task> task);
  // Aborts a submitted task and waits until `onDone` has returned, for a caller whose memory is about to go.
  void withdraw(Task& task);
  void close();
  // As `close`, for a process that ends, from any thread: afterwards no thread of the engine uses the driver.
  void halt();

 private:
  void work();
  void end(Task& task);

  std::unique_ptr<Device> device_;
  const DeviceInfo facts_;
  const bool mapped_;
  const std::string kernels_;  // folder they are read from; empty: those of the addon
  std::mutex mutex_;
  std::condition_variable wake_, ended_;
  std::deque<std::shared_ptr<Task>> queue_;
  std::shared_ptr<Task> running_;
  bool closing_ = false, halted_ = false;
  std::thread thread_;
};

}  // namespace weightsmith
