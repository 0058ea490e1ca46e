// Element types of safetensors files. All of them are recognised, so that any valid file can be inspected and
// copied; the few that kernels can compute with have a kernel code, which is part of the kernels' convention.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace weightsmith {

enum class DType : uint8_t {
  F32,
  F16,
  BF16,
  F64,
  F8_E4M3,
  F8_E5M2,
  F8_E4M3FNUZ,
  F8_E5M2FNUZ,
  F8_E8M0,
  F6_E2M3,
  F6_E3M2,
  F4,
  C64,
  Bool,
  U8,
  I8,
  U16,
  I16,
  U32,
  I32,
  U64,
  I64,
};

/// The type with that safetensors name, as in "BF16".
std::optional<DType> parseDType(std::string_view name);

const char* dtypeName(DType dtype);

/// Size of one element; below 8 for packed types.
uint32_t dtypeBits(DType dtype);

/// Code of the type in kernels (see native/kernels/include/layout.wgsl); nothing where none can load it.
std::optional<uint32_t> kernelCode(DType dtype);

/// Whether kernels can store the type.
bool storable(DType dtype);

}  // namespace weightsmith
