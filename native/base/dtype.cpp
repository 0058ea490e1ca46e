// One table of all element types, in the order of the enumeration.
#include "base/dtype.h"

#include <array>
#include <cstddef>

#include "layout.h"

namespace weightsmith {

namespace {

struct Entry {
  DType dtype;
  const char* name;
  uint32_t bits;
};

constexpr std::array kEntries = {
    Entry{DType::F32, "F32", 32},
    Entry{DType::F16, "F16", 16},
    Entry{DType::BF16, "BF16", 16},
    Entry{DType::F64, "F64", 64},
    Entry{DType::F8_E4M3, "F8_E4M3", 8},
    Entry{DType::F8_E5M2, "F8_E5M2", 8},
    Entry{DType::F8_E4M3FNUZ, "F8_E4M3FNUZ", 8},
    Entry{DType::F8_E5M2FNUZ, "F8_E5M2FNUZ", 8},
    Entry{DType::F8_E8M0, "F8_E8M0", 8},
    Entry{DType::F6_E2M3, "F6_E2M3", 6},
    Entry{DType::F6_E3M2, "F6_E3M2", 6},
    Entry{DType::F4, "F4", 4},
    Entry{DType::C64, "C64", 64},
    Entry{DType::Bool, "BOOL", 8},
    Entry{DType::U8, "U8", 8},
    Entry{DType::I8, "I8", 8},
    Entry{DType::U16, "U16", 16},
    Entry{DType::I16, "I16", 16},
    Entry{DType::U32, "U32", 32},
    Entry{DType::I32, "I32", 32},
    Entry{DType::U64, "U64", 64},
    Entry{DType::I64, "I64", 64},
};

constexpr bool inOrder() {
  for (size_t i = 0; i < kEntries.size(); i++) {
    if (static_cast<size_t>(kEntries[i].dtype) != i) return false;
  }
  return true;
}
static_assert(inOrder());

const Entry& entry(DType dtype) { return kEntries[static_cast<size_t>(dtype)]; }

}  // namespace

std::optional<DType> parseDType(std::string_view name) {
  for (const Entry& e : kEntries) {
    if (name == e.name) return e.dtype;
  }
  return std::nullopt;
}

const char* dtypeName(DType dtype) { return entry(dtype).name; }

uint32_t dtypeBits(DType dtype) { return entry(dtype).bits; }

std::optional<uint32_t> kernelCode(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return kDtypeF32;
    case DType::F16:
      return kDtypeF16;
    case DType::BF16:
      return kDtypeBf16;
    case DType::F64:
      return kDtypeF64;
    case DType::F8_E4M3:
      return kDtypeF8E4m3;
    case DType::F8_E5M2:
      return kDtypeF8E5m2;
    default:
      return std::nullopt;
  }
}

bool storable(DType dtype) { return dtype <= DType::BF16; }

}  // namespace weightsmith
