#include "stream/table.h"

#include <algorithm>

#include "base/fnv.h"

namespace weightsmith {

std::vector<uint32_t> parameterTable(const Plan& plan, const Group& group, const Tile& tile, const Stages& stages) {
  size_t coefficients = 0;
  uint32_t blocks = 0;
  for (const Segment& segment : tile.segments) {
    if (!stages.concerns(segment.job)) continue;
    coefficients = std::max(coefficients, stages.words(segment.job).size());
    blocks += segment.blocks;
  }
  const uint32_t record = recordWords(group.inputs, coefficients);
  const uint32_t map = 8, records = map + blocks;
  std::vector<uint32_t> table(records + tile.segments.size() * record);
  table[1] = blocks;
  table[2] = map;
  table[3] = records;
  table[4] = record;
  table[5] = static_cast<uint32_t>(plan.seed);
  table[6] = static_cast<uint32_t>(plan.seed >> 32);
  uint32_t block = 0;
  for (uint32_t s = 0; s < tile.segments.size(); s++) {
    const Segment& segment = tile.segments[s];
    if (!stages.concerns(segment.job)) continue;
    const Job& job = plan.jobs[segment.job];
    uint32_t* row = &table[records + s * record];
    const uint64_t firstElement = segment.firstBlock * kBlock;
    row[0] = static_cast<uint32_t>(segment.elements);
    row[1] = block;
    row[2] = static_cast<uint32_t>(firstElement);
    row[3] = static_cast<uint32_t>(firstElement >> 32);
    row[4] = static_cast<uint32_t>(segment.outputOffset / 16);
    row[5] = s;
    for (uint32_t i = 0; i < group.inputs; i++) {
      row[6 + i] = static_cast<uint32_t>(segment.inputOffsets[i] / 16) | *kernelCode(job.inputs[i].dtype) << 28;
      const uint64_t key = tensorKey(job.name, i);
      row[6 + group.inputs + 2 * i] = static_cast<uint32_t>(key);
      row[6 + group.inputs + 2 * i + 1] = static_cast<uint32_t>(key >> 32);
    }
    const auto& words = stages.words(segment.job);
    std::copy(words.begin(), words.end(), row + 6 + 3 * group.inputs);
    std::fill_n(&table[map + block], segment.blocks, s);
    block += segment.blocks;
    const auto part = stages.part(segment);
    if (part.empty()) continue;
    const size_t here = records + s * record + 6 + 3 * group.inputs;
    table[here] = static_cast<uint32_t>(table.size() - here);
    table.insert(table.end(), part.begin(), part.end());
  }
  return table;
}

}  // namespace weightsmith
