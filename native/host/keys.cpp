#include "host/keys.h"

#include <algorithm>
#include <bit>

#include "host/wide.h"
#include "layout.h"

namespace weightsmith {
namespace {

// So many elements at a time stay in the nearest cache.
constexpr size_t kChunk = 1024;

// As stored.wgsl: subnormals are zero.
inline uint32_t flush(uint32_t bits) { return (bits & 0x7f800000u) == 0 ? bits & 0x80000000u : bits; }

inline uint32_t fromHalf(uint32_t half) {
  // A product that is exact, for subnormals too.
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>((half & 0x7fffu) << 13) * 0x1p112f);
  const uint32_t special = 0x7f800000u | (half & 0x3ffu) << 13;
  return ((half & 0x7c00u) == 0x7c00u ? special : finite) | (half & 0x8000u) << 16;
}

WEIGHTSMITH_WIDE void widenBf16(const uint16_t* from, size_t count, uint32_t* to) {
  for (size_t i = 0; i < count; ++i) to[i] = flush(static_cast<uint32_t>(from[i]) << 16);
}
WEIGHTSMITH_WIDE void widenF16(const uint16_t* from, size_t count, uint32_t* to) {
  for (size_t i = 0; i < count; ++i) to[i] = fromHalf(from[i]);
}
WEIGHTSMITH_WIDE void widenF32(const uint32_t* from, size_t count, uint32_t* to) {
  for (size_t i = 0; i < count; ++i) to[i] = flush(from[i]);
}

WEIGHTSMITH_WIDE uint32_t keysOf(const uint32_t* base, const uint32_t* model, size_t count, uint32_t* keys) {
  uint32_t top = kZeroKey;
  for (size_t i = 0; i < count; ++i) {
    const float delta = std::bit_cast<float>(model[i]) - std::bit_cast<float>(base[i]);
    const uint32_t key = std::min(flush(std::bit_cast<uint32_t>(delta)) & 0x7fffffffu, 0x7f800000u) + 1;
    keys[i] = key;
    top = std::max(top, key == kInfKey ? kZeroKey : key);
  }
  return top;
}

void widen(const HostSource& source, int64_t first, size_t count, uint32_t* to) {
  if (source.dtype == kDtypeF32) {
    widenF32(reinterpret_cast<const uint32_t*>(source.memory) + first, count, to);
  } else {
    const auto* from = reinterpret_cast<const uint16_t*>(source.memory) + first;
    (source.dtype == kDtypeBf16 ? widenBf16 : widenF16)(from, count, to);
  }
}

}  // namespace

bool hostLoads(uint32_t dtype) { return dtype == kDtypeBf16 || dtype == kDtypeF16 || dtype == kDtypeF32; }

uint32_t deltaKeys(const HostSource& base, const HostSource& model, int64_t first, size_t count, uint32_t* keys) {
  uint32_t b[kChunk], m[kChunk];
  uint32_t top = kZeroKey;
  for (size_t done = 0; done < count; done += kChunk) {
    const size_t part = std::min(kChunk, count - done);
    widen(base, first + static_cast<int64_t>(done), part, b);
    widen(model, first + static_cast<int64_t>(done), part, m);
    top = std::max(top, keysOf(b, m, part, keys + done));
  }
  return top;
}

}  // namespace weightsmith
