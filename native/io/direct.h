// Writes past the page cache. Copying into it takes a fifth of the processor time of a linear merge, or more, and fills
// the memory with what nobody reads soon.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace weightsmith {

class DirectFile {
 public:
  /// Opens a file that is there already and reserves its `size` on the disk, so that writes do not wait for each other
  /// to extend it. Null where the system or the file system has no such writes.
  static std::unique_ptr<DirectFile> open(const std::string& path, uint64_t size);

  ~DirectFile();
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;

  /// A part of a write that can go past the cache: whole pages of the file. Empty where it is not worth the trouble.
  struct Range {
    uint64_t begin = 0, end = 0;
  };
  static Range within(uint64_t offset, uint64_t size);

  /// Writes such a part, from memory of any alignment and from any thread. Returns how many bytes of it were written:
  /// fewer than asked where the file system refuses the rest, which then has to go the usual way.
  uint64_t writeAt(uint64_t offset, const uint8_t* data, uint64_t size);

 private:
  struct Free {
    void operator()(uint8_t* memory) const;
  };
  using Aligned = std::unique_ptr<uint8_t, Free>;

  DirectFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  Aligned take();
  void give(Aligned buffer);

  int fd_;
  std::string path_;
  std::mutex mutex_;
  std::vector<Aligned> buffers_;  // as many as threads have written at once
};

}  // namespace weightsmith
