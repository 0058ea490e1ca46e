// The pieces that are read follow the tensors, so no element is cut in two.
#include "io/scan.h"

#include <algorithm>

#include "base/error.h"
#include "base/sha256.h"
#include "io/file.h"

namespace weightsmith {

namespace {

constexpr uint64_t kPiece = uint64_t{1} << 20;

template <typename Word>
uint64_t count(const uint8_t* data, size_t bytes, Word mask) {
  const auto* words = reinterpret_cast<const Word*>(data);
  uint64_t found = 0;
  for (size_t i = 0; i < bytes / sizeof(Word); i++) found += (words[i] & mask) == mask;
  return found;
}

}  // namespace

uint64_t countNonFinite(DType dtype, const uint8_t* data, size_t bytes) {
  // All bits of the exponent: infinite or NaN. E4M3 has no infinity, and its NaN has all bits of the mantissa too.
  switch (dtype) {
    case DType::F32:
    case DType::C64:
      return count<uint32_t>(data, bytes, 0x7F800000);
    case DType::BF16:
      return count<uint16_t>(data, bytes, 0x7F80);
    case DType::F16:
      return count<uint16_t>(data, bytes, 0x7C00);
    case DType::F64:
      return count<uint64_t>(data, bytes, 0x7FF0000000000000);
    case DType::F8_E5M2:
      return count<uint8_t>(data, bytes, 0x7C);
    case DType::F8_E4M3:
      return count<uint8_t>(data, bytes, 0x7F);
    case DType::F8_E8M0:
      return count<uint8_t>(data, bytes, 0xFF);
    default:
      return 0;
  }
}

Scan scanFile(const std::string& path, bool weights, ScanControl& control) {
  Scan scan;
  if (weights) scan.header = readHeader(path);
  const File file = File::openRead(path);
  if (weights && file.size() != scan.header->fileSize) {
    throw Error(Code::INPUT_CHANGED, "File " + quoted(path) + " changed while it was read.");
  }
  std::vector<uint64_t> buffer(kPiece / sizeof(uint64_t));
  auto* bytes = reinterpret_cast<uint8_t*>(buffer.data());
  Sha256 hash;
  const auto pass = [&](uint64_t from, uint64_t to, const Tensor* tensor) {
    uint64_t found = 0;
    while (from < to) {
      if (control.abort) throw Error(Code::ABORTED, "The check of " + quoted(path) + " was aborted.");
      const auto size = static_cast<size_t>(std::min(kPiece, to - from));
      file.readAt(from, bytes, size);
      hash.update(bytes, size);
      if (tensor) found += countNonFinite(tensor->dtype, bytes, size);
      from += size;
      control.bytes += size;
    }
    if (found > 0) scan.nonFinite.emplace_back(tensor->name, found);
  };
  if (scan.header) {
    pass(0, scan.header->dataStart, nullptr);
    for (const Tensor& tensor : scan.header->tensors) pass(tensor.begin, tensor.end, &tensor);
  } else {
    pass(0, file.size(), nullptr);
  }
  scan.sha256 = hash.hex();
  return scan;
}

}  // namespace weightsmith
