#include "stream/forecast.h"

#include <algorithm>

#include "stream/tiling.h"

namespace weightsmith {

Forecast forecast(const Plan& plan, const DeviceFacts& device) {
  const Tiling tiling =
      tile(plan, std::vector<bool>(plan.jobs.size()), limitsOf(plan, device.maxBinding, device.mapped));
  Forecast result;
  result.passes.resize(plan.jobs.size());
  uint64_t visits = 0;
  for (const Group& group : tiling.groups) {
    const size_t rounds = roundsOf(plan, group);
    visits += rounds * group.tiles.size();
    result.tiles += group.tiles.size();
    for (const Tile& tile : group.tiles) {
      for (const Segment& segment : tile.segments) {
        result.passes[segment.job] = static_cast<uint32_t>(rounds);
        for (const Source& source : plan.jobs[segment.job].inputs) {
          result.bytesRead += rounds * (group.program < 0 ? segment.elements : bytesOf(source.dtype, segment.elements));
        }
      }
    }
  }
  for (const Job& job : plan.jobs) {
    for (const Variant& variant : job.variants) {
      if (variant.output) result.bytesWritten += bytesOf(variant.output->dtype, job.elements);
    }
  }
  const uint64_t slots = std::min<uint64_t>(kSlots, visits) * (tiling.input + tiling.table);
  result.memory = (slots + kResults * (tiling.result + tiling.counts)) * (device.mapped ? 1 : 2);
  return result;
}

}  // namespace weightsmith
