// Buffers that stay on the device between calls, and the kernels that are run on them: weights, activations and caches
// of a model. It knows no model; TypeScript says which bytes go where and which kernels run in which order.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "dawn/device.h"
#include "gpu/pipelines.h"
#include "gpu/slot.h"
#include "graph/work.h"

namespace weightsmith {

class DeviceBuffers {
 public:
  // Throws Error OUT_OF_MEMORY for a buffer larger than the device can bind, or than there is room for.
  DeviceBuffers(const Device& device, const std::vector<uint64_t>& sizes);

  // Writes, then dispatches in order, then reads; one entry a read. Blocks until the device is done.
  std::vector<std::vector<uint8_t>> run(Pipelines& pipelines, ThreadPool& readers, const DeviceWork& work);

 private:
  void check(const DeviceWork& work) const;
  void write(ThreadPool& readers, const std::vector<BufferWrite>& writes);
  void encode(const wgpu::ComputePassEncoder& pass, Pipelines& pipelines,
              const std::vector<KernelDispatch>& dispatches);

  const Device& device_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::unique_ptr<Buffer> parameters_;  // of all dispatches of one run
};

// All buffers of a device by number. Lives on the engine thread, like all that touches the device.
class BufferRegistry {
 public:
  uint64_t add(std::unique_ptr<DeviceBuffers> buffers);
  // Throws Error DISPOSED for a number that was released.
  DeviceBuffers& at(uint64_t id) const;
  void remove(uint64_t id) { all_.erase(id); }

 private:
  std::map<uint64_t, std::unique_ptr<DeviceBuffers>> all_;
  uint64_t last_ = 0;
};

}  // namespace weightsmith
