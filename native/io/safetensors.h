// Byte layout of safetensors files and of the index of a sharded checkpoint. This is the one place where their
// bytes are trusted: what it returns is checked, so the rooms above compute with offsets and sizes freely.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "io/json.h"

namespace weightsmith {

struct Tensor {
  std::string name;
  DType dtype = DType::F32;
  std::vector<uint64_t> shape;
  /// Byte offsets from the start of the file.
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct Header {
  uint64_t fileSize = 0;
  /// 8 + length of the JSON header.
  uint64_t dataStart = 0;
  /// SHA-256 (hex) of the first `dataStart` bytes.
  std::string headerHash;
  std::vector<std::pair<std::string, std::string>> metadata;
  /// In order of offset; together they cover the bytes from `dataStart` to `fileSize` once.
  std::vector<Tensor> tensors;
};

struct Index {
  /// `total_size` and whatever else the writer noted.
  json::Object metadata;
  /// Tensor to file; files are plain names that stay in the folder of the index.
  std::vector<std::pair<std::string, std::string>> weightMap;
};

/// Header of one file; Error FORMAT where the file breaks the format, IO_READ or NOT_FOUND where it cannot be read.
Header readHeader(const std::string& path);

/// `model.safetensors.index.json`; Error INDEX where it is malformed.
Index readIndex(const std::string& path);

/// The same of bytes in memory (all of the file); `path` is for the sentence of an Error.
Header parseHeader(std::string_view file, const std::string& path);
Index parseIndex(std::string_view text, const std::string& path);

}  // namespace weightsmith
