// The keys that native/kernels/include/delta.wgsl ranks elements by, of elements in memory.
#pragma once
#include <cstddef>
#include <cstdint>

namespace weightsmith {

// An element of an input is loaded from `memory`; `dtype` is a code of layout.wgsl.
struct HostSource {
  const uint8_t* memory = nullptr;
  uint32_t dtype = 0;
};

constexpr uint32_t kZeroKey = 1;
constexpr uint32_t kInfKey = 0x7f800001u;  // of NaN too

// Whether `deltaKeys` knows the type.
bool hostLoads(uint32_t dtype);

// The keys of the differences of `count` elements of a model from those of the base, from element `first` on, which
// may lie before the memory's start. Returns the largest one of a finite difference, at least kZeroKey.
uint32_t deltaKeys(const HostSource& base, const HostSource& model, int64_t first, size_t count, uint32_t* keys);

}  // namespace weightsmith
