// What the kernel select finds (native/kernels/merge/select.wgsl), where the device is this processor: in each block
// how many keys lie above a bracket, and which ones inside it. A software driver loads and looks up lane by lane.
#pragma once
#include "base/thread_pool.h"
#include "host/tile.h"

namespace weightsmith {

struct SelectWork {
  HostTile tile;
  size_t cuts;    // the constant CUTS
  bool weighted;  // the constant WEIGHTED
  uint32_t* result;
};

// Writes the words of the kernel. False, with nothing done, where an input has a type that is rare.
bool selectOnHost(const SelectWork& work, ThreadPool& threads);

}  // namespace weightsmith
