// FNV-1a-64 of a tensor's name and a model's ordinal: the key of the tensor's random numbers. It is part of the
// file format (same recipe and seed, same bytes), so it must never change.
#pragma once

#include <cstdint>
#include <string_view>

namespace weightsmith {

constexpr uint64_t kFnvBasis = 0xCBF29CE484222325;

constexpr uint64_t fnvByte(uint64_t hash, uint8_t byte) { return (hash ^ byte) * 0x100000001B3; }

constexpr uint64_t fnv1a(std::string_view bytes) {
  uint64_t hash = kFnvBasis;
  for (const char c : bytes) hash = fnvByte(hash, static_cast<uint8_t>(c));
  return hash;
}

/// FNV-1a-64 of `name`, one zero byte, and `ordinal` as four little-endian bytes.
constexpr uint64_t tensorKey(std::string_view name, uint32_t ordinal) {
  uint64_t hash = fnvByte(fnv1a(name), 0);
  for (int shift = 0; shift < 32; shift += 8) hash = fnvByte(hash, static_cast<uint8_t>(ordinal >> shift));
  return hash;
}

}  // namespace weightsmith
