#include "stream/table.h"

#include <algorithm>

#include "base/fnv.h"

namespace weightsmith {

std::vector<uint32_t> parameterTable(const Plan& plan, const Group& group, const Tile& tile,
                                     const ProgramCursor& cursor) {
  size_t coefficients = 0;
  uint32_t blocks = 0;
  for (const Segment& segment : tile.segments) {
    if (!cursor.concerns(segment.job)) continue;
    coefficients = std::max(coefficients, cursor.words(segment.job).size());
    blocks += segment.blocks;
  }
  const uint32_t record = recordWords(group.inputs, coefficients);
  const uint32_t map = kTableWords, records = map + blocks;
  std::vector<uint32_t> table(records + tile.segments.size() * record);
  table[kTableBlocks] = blocks;
  table[kTableMap] = map;
  table[kTableRecords] = records;
  table[kTableRecordWords] = record;
  table[kTableSeed] = static_cast<uint32_t>(plan.seed);
  table[kTableSeed + 1] = static_cast<uint32_t>(plan.seed >> 32);
  uint32_t block = 0;
  for (uint32_t s = 0; s < tile.segments.size(); s++) {
    const Segment& segment = tile.segments[s];
    if (!cursor.concerns(segment.job)) continue;
    const Job& job = plan.jobs[segment.job];
    uint32_t* row = &table[records + s * record];
    const uint64_t firstElement = segment.firstBlock * kBlock;
    row[kRecordElements] = static_cast<uint32_t>(segment.elements);
    row[kRecordFirstBlock] = block;
    row[kRecordFlat] = static_cast<uint32_t>(firstElement);
    row[kRecordFlat + 1] = static_cast<uint32_t>(firstElement >> 32);
    row[kRecordOutput] = static_cast<uint32_t>(segment.outputOffset / 16);
    row[kRecordSegment] = s;
    for (uint32_t i = 0; i < group.inputs; i++) {
      row[kRecordSources + i] = static_cast<uint32_t>(segment.inputOffsets[i] / 16) | *kernelCode(job.inputs[i].dtype)
                                                                                          << kSourceDtype;
      const uint64_t key = tensorKey(job.name, i);
      uint32_t* const hash = row + kRecordSources + group.inputs + 2 * i;
      hash[0] = static_cast<uint32_t>(key);
      hash[1] = static_cast<uint32_t>(key >> 32);
    }
    const auto& words = cursor.words(segment.job);
    std::copy(words.begin(), words.end(), row + recordWords(group.inputs, 0));
    std::fill_n(&table[map + block], segment.blocks, s);
    block += segment.blocks;
    const auto part = cursor.part(segment);
    if (part.empty()) continue;
    const size_t here = records + s * record + recordWords(group.inputs, 0);
    table[here] = static_cast<uint32_t>(table.size() - here);
    table.insert(table.end(), part.begin(), part.end());
  }
  return table;
}

}  // namespace weightsmith
