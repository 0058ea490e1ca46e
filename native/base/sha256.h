// Streaming SHA-256, for header hashes and checksums of outputs that are computed while the bytes pass by.
// Uses the processor's SHA instructions where it has them: hashing must keep up with the disk.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace weightsmith {

class Sha256 {
 public:
  Sha256() = default;

  void update(const void* data, size_t size);

  /// The digest of everything so far, in lower-case hex. More bytes may follow.
  std::string hex() const;

  /// As `Sha256()`, but never uses the processor's SHA instructions, so that both ways can be compared.
  static Sha256 portable();

 private:
  using Compress = void (*)(uint32_t* state, const uint8_t* blocks, size_t count);
  static Compress fastest();

  std::array<uint32_t, 8> state_ = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};
  std::array<uint8_t, 64> pending_ = {};
  uint64_t total_ = 0;
  Compress compress_ = fastest();
};

}  // namespace weightsmith
