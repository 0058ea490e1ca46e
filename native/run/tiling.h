// Cuts the jobs of a plan into tiles that fit a slot: neighbours of one kind share a tile, a big tensor gets many.
#pragma once
#include <vector>

#include "gpu/slot.h"
#include "run/plan.h"

namespace weightsmith {

// Elements a block; reductions and random numbers count blocks from a tensor's first element.
constexpr uint64_t kBlock = 2048;

// Part of one job in one tile, with its byte offsets in the slot.
struct Segment {
  uint32_t job = 0;
  uint64_t firstBlock = 0;  // in the tensor
  uint32_t blocks = 0;
  uint64_t elements = 0;  // bytes, for a copy
  std::vector<uint64_t> inputOffsets;
  uint64_t outputOffset = 0;
};

struct Tile {
  std::vector<Segment> segments;
  uint32_t blocks = 0;
  uint64_t inputBytes = 0;
};

// Tiles that go through their program's kernels together: one tile with whole tensors, or all tiles of one tensor.
struct Group {
  int32_t program = -1;
  uint32_t inputs = 0;
  uint32_t inputCode = 0;  // kernel dtype code, or mixed
  uint32_t outputCode = 0;
  std::vector<Tile> tiles;
};

struct Tiling {
  std::vector<Group> groups;
  SlotSize slot;
};

struct TilingLimits {
  uint64_t binding = 0;  // bytes one binding may have
  uint64_t slot = 0;     // bytes one slot may take
};

// Throws Error OUT_OF_MEMORY when not even one block fits.
Tiling tile(const Plan& plan, const TilingLimits& limits);

uint64_t bytesOf(DType dtype, uint64_t elements);
uint32_t recordWords(size_t inputs, size_t coefficients);

}  // namespace weightsmith
