// One adapter and one device, opened for the engine thread, with what it reported and whether it is lost.
#pragma once
#include <webgpu/webgpu_cpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "dawn/adapters.h"

namespace weightsmith {

struct DeviceList {
  // In the order of preference of `open`. One that cannot be used says why.
  std::vector<DeviceInfo> devices;
  // What Dawn says of drivers that it refuses.
  std::vector<std::string> refused;
};

class Device {
 public:
  // The first adapter that fits and on which a trivial kernel runs; throws NO_DEVICE, which names what was passed
  // over.
  static std::unique_ptr<Device> open(const OpenOptions& options);
  // What `open` chooses from. Opens each to see whether a kernel runs.
  static DeviceList list(const OpenOptions& options);
  ~Device();

  const wgpu::Device& handle() const { return device_; }
  const wgpu::Queue& queue() const { return queue_; }
  const DeviceInfo& facts() const { return facts_; }
  // Kernels read the slot's own memory, without copies.
  bool mapped() const { return mapped_; }
  uint64_t maxBinding() const { return maxBinding_; }

  // Blocks this thread until the future is done. Throws DEVICE_LOST if the device goes away meanwhile.
  void wait(wgpu::Future future) const;
  // Throws what the permanent callbacks recorded: DEVICE_LOST, KERNEL for an uncaptured validation error (both for
  // good), or OUT_OF_MEMORY, after which the device is as before.
  void check() const;
  // Runs `make`, which creates buffers and does not throw; throws OUT_OF_MEMORY where the device has no room for them.
  // Buffers that are gone make room first.
  void allocate(const std::string& what, const std::function<void()>& make) const;
  // A buffer is gone. Dawn keeps its memory until `reclaim`.
  void dropped() const { dropped_ = true; }
  // Gives back the memory of buffers that are gone; nothing to do where none is. Dawn keeps it until its events are
  // looked at, which waiting for a future does not do.
  void reclaim() const;
  // From any thread; the thread that uses the device loses it, at its next check.
  void forceLoss() const;

 private:
  // Outlives the device: Dawn's callbacks may come late.
  struct State {
    std::atomic<bool> lossAsked{false};
    std::atomic<bool> lost{false};
    std::atomic<bool> failed{false};
    std::atomic<bool> exhausted{false};
    std::mutex mutex;
    std::string message;
    bool verbose = false;
  };

  Device() = default;
  // Throws where the adapter gives no device, or one that a trivial kernel does not run on.
  static std::unique_ptr<Device> openOn(const wgpu::Instance& instance, const Candidate& candidate,
                                        const OpenOptions& options);
  // Runs a trivial kernel in such a buffer as all others work in.
  void prove() const;
  // Side of the square matrices of f16 numbers that a subgroup multiplies with sums in f32; 0: none.
  uint32_t matrixSide() const;

  std::shared_ptr<State> state_;
  wgpu::Instance instance_;
  wgpu::Device device_;
  wgpu::Queue queue_;
  DeviceInfo facts_;
  bool mapped_ = false;
  uint64_t maxBinding_ = 0;
  mutable bool dropped_ = false;  // of the thread that uses the device, as buffers are
};

}  // namespace weightsmith
