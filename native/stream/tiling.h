// Cuts the jobs of a plan into tiles that fit a slot: neighbours of one kind share a tile, a big tensor gets many.
#pragma once
#include <vector>

#include "plan/plan.h"

namespace weightsmith {

// Slots: one in which a kernel works while two are read into. Results: one written by a kernel while two go to disk.
constexpr size_t kSlots = 3;
constexpr size_t kResults = 3;

// Part of one job in one tile, with its byte offsets in the slot.
struct Segment {
  uint32_t job = 0;
  uint64_t firstBlock = 0;  // in the tensor
  uint32_t blocks = 0;
  uint64_t elements = 0;               // bytes, for a copy
  uint64_t before = 0, after = 0;      // elements around these that are read too, so that their rows are whole
  std::vector<uint64_t> inputOffsets;  // of the first element proper
  uint64_t outputOffset = 0;
};

struct Tile {
  std::vector<Segment> segments;
  uint32_t blocks = 0;
  uint64_t inputBytes = 0;
  uint32_t inputCode = 0;  // kernel dtype code, or mixed
  uint32_t outputCode = 0;
};

// Tiles that go through their program's kernels together: one tile with whole tensors, all tiles of one tensor, or of
// all tensors of a program that is shared.
struct Group {
  int32_t program = -1;
  uint32_t inputs = 0;
  std::vector<Tile> tiles;
};

struct Tiling {
  std::vector<Group> groups;
  uint64_t input = 0, table = 0;    // bytes the largest tile needs in a slot
  uint64_t result = 0, counts = 0;  // and in a result
};

struct TilingLimits {
  uint64_t binding = 0;  // bytes one binding may have
  uint64_t memory = 0;   // bytes all slots and results may take together
};

// Leaves out the jobs that are `finished`. Throws Error OUT_OF_MEMORY when not even one block fits.
Tiling tile(const Plan& plan, const std::vector<bool>& finished, const TilingLimits& limits);

// Staging memory exists twice: on the device and on the host.
TilingLimits limitsOf(const Plan& plan, uint64_t maxBinding, bool mapped);

// How often the tiles of a group are read: one that is alone stays in its slot between the kernels.
size_t roundsOf(const Plan& plan, const Group& group);

uint64_t bytesOf(DType dtype, uint64_t elements);
// What a segment of so many elements reads of an input.
uint64_t readBytes(const Source& source, uint64_t elements);
// What of that lies before the segment's first element.
uint64_t bytesBefore(const Source& source, const Segment& segment);
uint32_t recordWords(size_t inputs, size_t coefficients);

}  // namespace weightsmith
