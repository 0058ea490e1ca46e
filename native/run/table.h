// The parameter table of a tile: what native/kernels/include/tile.wgsl reads. The layout is in ARCHITECTURE.md.
#pragma once
#include <cstdint>
#include <vector>

#include "run/stages.h"
#include "run/tiling.h"

namespace weightsmith {

std::vector<uint32_t> parameterTable(const Plan& plan, const Group& group, const Tile& tile, const Stages& stages);

}  // namespace weightsmith
