// Draws the elements that a random drop by rank leaves (native/kernels/include/ranks.wgsl), where the device is this
// processor: sorting a row into bins takes it a fourth of the time that a software driver takes to count. It is the
// same that is drawn, and kernels do all else.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/thread_pool.h"

namespace weightsmith {

struct DrawWork {
  std::vector<uint32_t>& table;  // of the tile (see tile.wgsl)
  size_t room;                   // words that it may have
  const uint8_t* sources;        // memory of the slot
  size_t inputs;
  bool masks;  // the constant MASKS
};

// Puts the bits of what stays behind the table, where kernels with GIVEN 1 find them: a word a line of 32 elements and
// model. False, with nothing done, where there is no room for them, where an input has a type that is rare, or where
// rows are so long that their elements are better ranked in the memory of the tile.
bool drawOnHost(const DrawWork& work, ThreadPool& threads);

}  // namespace weightsmith
