// One pass over a file for `verify`: its SHA-256, and for a safetensors file the NaN and infinite values of every
// tensor. Bits are compared, nothing is computed, so this needs no device.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/safetensors.h"

namespace weightsmith {

struct Scan {
  std::string sha256;
  /// Where the file was to be read as safetensors.
  std::optional<Header> header;
  /// Tensors with NaN or infinite values, and how many.
  std::vector<std::pair<std::string, uint64_t>> nonFinite;
};

/// What another thread may see and ask of a scan.
struct ScanControl {
  std::atomic<bool> abort{false};
  std::atomic<uint64_t> bytes{0};
};

/// Errors as of `readHeader` and of reading; ABORTED where that was asked for.
Scan scanFile(const std::string& path, bool weights, ScanControl& control);

/// NaN and infinite values among the elements at `data`, which is aligned for them; 0 for types that have none.
uint64_t countNonFinite(DType dtype, const uint8_t* data, size_t bytes);

}  // namespace weightsmith
