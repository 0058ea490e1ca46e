// A tile as native/kernels/include/tile.wgsl sees it, for this processor.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "host/keys.h"
#include "layout.h"

namespace weightsmith {

struct HostTile {
  const std::vector<uint32_t>& table;
  const uint8_t* sources;  // memory of the slot
  size_t inputs;

  uint32_t blocks() const { return table[kTableBlocks]; }
};

// A segment of a tile.
class HostPart {
 public:
  HostPart(const HostTile& tile, uint32_t block)
      : tile_(tile),
        record_(tile.table[kTableRecords] + tile.table[tile.table[kTableMap] + block] * tile.table[kTableRecordWords]) {
  }

  uint32_t elements() const { return word(kRecordElements); }
  uint32_t firstBlock() const { return word(kRecordFirstBlock); }
  uint32_t blocks() const { return (elements() + kBlock - 1) / kBlock; }
  uint64_t flat() const { return word(kRecordFlat) | uint64_t{word(kRecordFlat + 1)} << 32; }
  HostSource source(size_t input) const {
    const uint32_t source = word(kRecordSources + input);
    return {tile_.sources + uint64_t{source & ((1u << kSourceDtype) - 1)} * 16, source >> kSourceDtype};
  }
  // Words of a hash of the names of tensor and model.
  const uint32_t* hash(size_t input) const { return &tile_.table[record_ + kRecordSources + tile_.inputs + 2 * input]; }
  const uint32_t* coefficients() const {
    return &tile_.table[record_ + kRecordSources + kRecordInputWords * tile_.inputs];
  }

 private:
  uint32_t word(size_t at) const { return tile_.table[record_ + at]; }

  HostTile tile_;
  size_t record_;
};

// Of all segments that the table has blocks of.
inline std::vector<HostPart> hostParts(const HostTile& tile) {
  std::vector<HostPart> parts;
  for (uint32_t block = 0; block < tile.blocks(); block += parts.back().blocks()) parts.emplace_back(tile, block);
  return parts;
}

}  // namespace weightsmith
