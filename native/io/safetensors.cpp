// Checks of the safetensors format. Sizes are compared before anything is allocated, and every product and sum is
// checked, so a header can only be refused or be true.
#include "io/safetensors.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string_view>
#include <tuple>

#include "base/error.h"
#include "base/sha256.h"
#include "io/file.h"

namespace weightsmith {

namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kLargestHeader = 100'000'000;
constexpr uint64_t kLargestIndex = 100'000'000;
// The largest checkpoints have some 100,000 tensors in all their files together.
constexpr size_t kMostTensors = 500'000;
// Entries of __metadata__, dimensions of a shape: what one entry of a header may hold.
constexpr size_t kMostValues = 20'000;

/// The product, or nothing where it does not fit in 64 bits.
std::optional<uint64_t> multiply(uint64_t a, uint64_t b) {
  if (b != 0 && a > std::numeric_limits<uint64_t>::max() / b) return std::nullopt;
  return a * b;
}

std::string shapeText(const std::vector<uint64_t>& shape) {
  constexpr size_t kShown = 16;
  std::string out = "[";
  for (size_t i = 0; i < std::min(shape.size(), kShown); i++) out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  if (shape.size() > kShown) out += ", …";
  return out + "]";
}

class HeaderReader {
 public:
  HeaderReader(const std::string& path, uint64_t fileSize) : path_(path) { header_.fileSize = fileSize; }

  /// Bytes of the header with its length before it; `prefix`: the first 8 bytes of the file, or all it has.
  uint64_t dataStart(std::string_view prefix) const {
    if (prefix.size() < kLengthBytes) {
      fail("expected at least 8 bytes for the length of the header, found a file of " +
           std::to_string(header_.fileSize) + " bytes");
    }
    uint64_t length = 0;
    for (size_t i = 0; i < kLengthBytes; i++) length |= uint64_t{static_cast<uint8_t>(prefix[i])} << (8 * i);
    if (length > kLargestHeader) {
      fail("expected a header of at most " + std::to_string(kLargestHeader) + " bytes, found a header length of " +
           std::to_string(length));
    }
    if (length > header_.fileSize - kLengthBytes) {
      fail("expected " + std::to_string(length) + " bytes of header after the first 8, found a file of " +
           std::to_string(header_.fileSize) + " bytes; it may be truncated");
    }
    return kLengthBytes + length;
  }

  /// `bytes`: the first `dataStart` bytes of the file.
  Header read(std::string_view bytes) {
    header_.dataStart = bytes.size();
    Sha256 hash;
    hash.update(bytes.data(), bytes.size());
    header_.headerHash = hash.hex();

    const std::string_view text = bytes.substr(kLengthBytes);
    if (text.empty() || text.front() != '{') {
      fail("the header must start with '{', but " +
           (text.empty() ? std::string("it is empty") : "its first byte is " + quoted(text.substr(0, 1))));
    }
    bool metadata = false;
    json::parseMembers(text, Code::FORMAT, "The header of " + quoted(path_),
                       {.bytes = kLargestHeader, .depth = 3, .values = kMostValues},
                       [&](std::string name, json::Value value) {
                         if (name == "__metadata__") {
                           if (metadata) fail("expected one entry __metadata__, found two");
                           metadata = true;
                           readMetadata(value);
                         } else {
                           if (header_.tensors.size() == kMostTensors) {
                             fail("expected at most " + std::to_string(kMostTensors) + " tensors, found more");
                           }
                           header_.tensors.push_back(readTensor(std::move(name), value));
                         }
                       });
    refuseTwins();
    checkLayout();
    return std::move(header_);
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw Error(Code::FORMAT, "File " + quoted(path_) + " is not valid safetensors: " + why + ".");
  }

  [[noreturn]] void failTensor(std::string_view tensor, const std::string& why) const {
    fail("tensor " + quoted(tensor) + ": " + why);
  }

  void readMetadata(const json::Value& value) {
    const json::Object* members = value.object();
    if (!members) fail(std::string("expected __metadata__ to be an object, found ") + value.kind());
    for (const auto& [key, item] : *members) {
      const std::string* text = item.string();
      if (!text) fail("expected the metadata entry " + quoted(key) + " to be a string, found " + item.kind());
      header_.metadata.emplace_back(key, *text);
    }
  }

  const json::Value& entry(const std::string& name, const json::Value& tensor, std::string_view key) const {
    const json::Value* found = tensor.find(key);
    if (!found) failTensor(name, "expected the entries dtype, shape and data_offsets, found no " + std::string(key));
    return *found;
  }

  uint64_t natural(const std::string& name, const json::Value& value, const char* what) const {
    const int64_t* number = value.integer();
    if (!number) failTensor(name, std::string("expected ") + what + " to hold integers, found " + value.kind());
    if (*number < 0) {
      failTensor(name,
                 std::string("expected ") + what + " to hold no negative numbers, found " + std::to_string(*number));
    }
    return static_cast<uint64_t>(*number);
  }

  Tensor readTensor(std::string name, const json::Value& value) const {
    const json::Object* members = value.object();
    if (!members) failTensor(name, std::string("expected an object, found ") + value.kind());
    for (const auto& member : *members) {
      const std::string& key = member.first;
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        failTensor(name, "expected the entries dtype, shape and data_offsets, found also " + quoted(key));
      }
    }
    Tensor tensor;

    const json::Value& dtype = entry(name, value, "dtype");
    if (!dtype.string()) failTensor(name, std::string("expected dtype to be a string, found ") + dtype.kind());
    const std::optional<DType> known = parseDType(*dtype.string());
    if (!known) failTensor(name, "expected a dtype of safetensors, such as BF16, found " + quoted(*dtype.string()));
    tensor.dtype = *known;

    const json::Value& shape = entry(name, value, "shape");
    if (!shape.array()) failTensor(name, std::string("expected shape to be an array, found ") + shape.kind());
    for (const json::Value& size : *shape.array()) tensor.shape.push_back(natural(name, size, "shape"));

    const json::Value& offsets = entry(name, value, "data_offsets");
    if (!offsets.array() || offsets.array()->size() != 2) {
      failTensor(name, "expected data_offsets to be an array of 2 integers, found " +
                           (offsets.array() ? "an array of " + std::to_string(offsets.array()->size())
                                            : std::string(offsets.kind())));
    }
    const uint64_t begin = natural(name, (*offsets.array())[0], "data_offsets");
    const uint64_t end = natural(name, (*offsets.array())[1], "data_offsets");
    const std::string range = "[" + std::to_string(begin) + ", " + std::to_string(end) + "]";
    if (begin > end) failTensor(name, "expected data_offsets that do not decrease, found " + range);
    const uint64_t data = header_.fileSize - header_.dataStart;
    if (end > data) {
      failTensor(name, "expected data_offsets within the " + std::to_string(data) +
                           " bytes of data in the file, found " + range + "; the file may be truncated");
    }
    tensor.name = std::move(name);
    const uint64_t bytes = tensorBytes(tensor);
    if (end - begin != bytes) {
      failTensor(tensor.name, "expected " + std::to_string(bytes) + " bytes for " + dtypeName(tensor.dtype) + " " +
                                  shapeText(tensor.shape) + ", found " + std::to_string(end - begin) +
                                  " in data_offsets " + range);
    }
    tensor.begin = header_.dataStart + begin;
    tensor.end = header_.dataStart + end;
    return tensor;
  }

  uint64_t tensorBytes(const Tensor& tensor) const {
    std::optional<uint64_t> bits = dtypeBits(tensor.dtype);
    for (const uint64_t size : tensor.shape) {
      if (bits) bits = multiply(*bits, size);
    }
    const std::string what = std::string(dtypeName(tensor.dtype)) + " " + shapeText(tensor.shape);
    if (!bits) failTensor(tensor.name, "expected a size that fits in 64 bits, found " + what);
    if (*bits % 8 != 0) {
      failTensor(tensor.name, "expected a whole number of bytes, found " + std::to_string(*bits) + " bits for " + what);
    }
    return *bits / 8;
  }

  void refuseTwins() const {
    // Sorted instead of hashed: no choice of names makes this slow.
    std::vector<const std::string*> names;
    names.reserve(header_.tensors.size());
    for (const Tensor& tensor : header_.tensors) names.push_back(&tensor.name);
    std::sort(names.begin(), names.end(), [](const std::string* a, const std::string* b) { return *a < *b; });
    const auto twin = std::adjacent_find(names.begin(), names.end(),
                                         [](const std::string* a, const std::string* b) { return *a == *b; });
    if (twin != names.end()) failTensor(**twin, "expected unique names, found this one twice");
  }

  void checkLayout() {
    // Tensors without elements come first among those of one offset, so that each begins where the last one ended.
    std::sort(header_.tensors.begin(), header_.tensors.end(), [](const Tensor& a, const Tensor& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    uint64_t at = header_.dataStart;
    const Tensor* last = nullptr;
    for (const Tensor& tensor : header_.tensors) {
      if (tensor.begin != at) {
        const std::string before = last ? "where tensor " + quoted(last->name) + " ends" : "where the header ends";
        const char* fault = tensor.begin < at ? "; the two overlap" : "; the bytes between belong to no tensor";
        failTensor(tensor.name, "expected its data at byte " + std::to_string(at) + " of the file, " + before +
                                    ", found " + std::to_string(tensor.begin) + fault);
      }
      at = tensor.end;
      last = &tensor;
    }
    if (at != header_.fileSize) {
      fail("expected the file to end with its last tensor at byte " + std::to_string(at) + ", found a file of " +
           std::to_string(header_.fileSize) + " bytes");
    }
  }

  const std::string& path_;
  Header header_;
};

/// Why a shard may not be opened, or nothing where its name is plain.
const char* shardFault(std::string_view name) {
  if (name.empty()) return "an empty name";
  if (name == "." || name == "..") return "a folder";
  if (name.find_first_of("/\\") != std::string_view::npos) return "a path";
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  if (std::any_of(name.begin(), name.end(), control)) return "a name with control characters";
  return nullptr;
}

}  // namespace

Header readHeader(const std::string& path) {
  const File file = File::openRead(path);
  HeaderReader reader(path, file.size());
  std::string bytes(static_cast<size_t>(std::min(file.size(), kLengthBytes)), '\0');
  file.readAt(0, bytes.data(), bytes.size());
  bytes.resize(static_cast<size_t>(reader.dataStart(bytes)));
  file.readAt(0, bytes.data(), bytes.size());
  return reader.read(bytes);
}

Header parseHeader(std::string_view file, const std::string& path) {
  HeaderReader reader(path, file.size());
  return reader.read(file.substr(0, static_cast<size_t>(reader.dataStart(file.substr(0, kLengthBytes)))));
}

Index readIndex(const std::string& path) {
  const File file = File::openRead(path);
  if (file.size() > kLargestIndex) {
    throw Error(Code::INDEX, "The index " + quoted(path) + " is too large: expected at most " +
                                 std::to_string(kLargestIndex) + " bytes, found " + std::to_string(file.size()) + ".");
  }
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.readAt(0, text.data(), text.size());
  return parseIndex(text, path);
}

Index parseIndex(std::string_view text, const std::string& path) {
  const std::string subject = "The index " + quoted(path);
  const json::Value root = json::parse(text, Code::INDEX, subject, {.bytes = kLargestIndex});
  if (!root.object()) throw Error(Code::INDEX, subject + " must be an object, but it is " + root.kind() + ".");

  Index index;
  if (const json::Value* metadata = root.find("metadata")) {
    if (!metadata->object()) {
      throw Error(Code::INDEX,
                  subject + " is malformed: expected metadata to be an object, found " + metadata->kind() + ".");
    }
    index.metadata = *metadata->object();
  }
  const json::Value* map = root.find("weight_map");
  if (!map || !map->object()) {
    throw Error(Code::INDEX, subject + " is malformed: expected weight_map to be an object, found " +
                                 (map ? map->kind() : "none") + ".");
  }
  for (const auto& [tensor, value] : *map->object()) {
    const std::string* shard = value.string();
    if (!shard) {
      throw Error(Code::INDEX, subject + " is malformed: expected a file name for tensor " + quoted(tensor) +
                                   ", found " + value.kind() + ".");
    }
    if (const char* fault = shardFault(*shard)) {
      throw Error(Code::INDEX, subject + " is malformed: expected a plain file name for tensor " + quoted(tensor) +
                                   ", found " + fault + ", " + quoted(*shard) + ".");
    }
    index.weightMap.emplace_back(tensor, *shard);
  }
  return index;
}

}  // namespace weightsmith
