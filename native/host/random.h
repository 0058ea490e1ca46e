// The random words of native/kernels/include/draw.wgsl.
#pragma once
#include <cstddef>
#include <cstdint>

namespace weightsmith {

// What the numbers of an input have in common: the run's seed, and a hash of the names of tensor and model.
struct HostStream {
  uint32_t seed[2] = {};
  uint32_t hash[2] = {};
};

// Words of the elements `first` to `first` + 4 * `fours` of the tensor; `first` is a multiple of 4.
void randomWords(const HostStream& stream, uint64_t first, size_t fours, uint32_t* words);

}  // namespace weightsmith
