// Runs one plan on the calling thread: a ring of slots in which reads, compute and writes of different tiles overlap.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "base/thread_pool.h"
#include "dawn/device.h"
#include "gpu/pipelines.h"
#include "gpu/slot.h"
#include "graph/device_buffers.h"
#include "plan/plan.h"

namespace weightsmith {

// Slots and results outlive a run: allocating and first touching their memory costs more than a small merge.
struct BufferCache {
  std::vector<std::unique_ptr<Slot>> slots;
  std::vector<std::unique_ptr<Result>> results;
};

struct RunContext {
  const Device& device;
  Pipelines& pipelines;
  ThreadPool& readers;
  ThreadPool& writers;
  ThreadPool& hashers;
  ThreadPool* workers;  // a thread a core, where the device is this processor; otherwise null
  BufferCache& cache;
  BufferRegistry& buffers;
};

// `abort` is looked at before every tile. Throws Error; outputs are then incomplete.
Report execute(const RunContext& context, const Plan& plan, const std::atomic<bool>& abort,
               const std::function<void(const Progress&)>& onProgress);

}  // namespace weightsmith
