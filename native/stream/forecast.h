// What a run would read, write and hold, from its tiling alone: no device, no file.
#pragma once
#include <cstdint>
#include <vector>

#include "plan/plan.h"

namespace weightsmith {

// What the tiling of a run depends on besides its plan.
struct DeviceFacts {
  uint64_t maxBinding = 0;  // bytes one binding may have
  bool mapped = false;      // slots are host memory
};

struct Forecast {
  uint64_t bytesRead = 0, bytesWritten = 0, tiles = 0;
  uint64_t memory = 0;           // bytes of all slots
  std::vector<uint32_t> passes;  // one a job: how often its inputs are read, where no kernel has to run again
};

// Throws Error OUT_OF_MEMORY when the plan's memory does not suffice.
Forecast forecast(const Plan& plan, const DeviceFacts& device);

}  // namespace weightsmith
