// The parameter table of a tile: what native/kernels/include/tile.wgsl reads. docs/internals/merge-executor.md has the
// layout.
#pragma once
#include <cstdint>
#include <vector>

#include "stream/cursor.h"
#include "stream/tiling.h"

namespace weightsmith {

// Covers the segments that the kernel at hand concerns; word 1 is the number of their blocks.
std::vector<uint32_t> parameterTable(const Plan& plan, const Group& group, const Tile& tile,
                                     const ProgramCursor& cursor);

}  // namespace weightsmith
