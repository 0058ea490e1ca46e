// Positional file reads and writes. Every call names its offset, so threads share one descriptor without a lock,
// and every failure is an Error that names the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace weightsmith {

class File {
 public:
  /// Opens a regular file (or a link to one) for reading.
  static File openRead(const std::string& path);

  /// Creates or empties a file and gives it its full size, for writing and reading back.
  static File create(const std::string& path, uint64_t size);

  /// Waits until what was written to a file, or the entries of a folder, are on the disk.
  static void syncPath(const std::string& path);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  /// Reads exactly `size` bytes; a file that ends before them is an Error.
  void readAt(uint64_t offset, void* data, size_t size) const;

  /// Writes exactly `size` bytes.
  void writeAt(uint64_t offset, const void* data, size_t size);

  /// Waits until all that was written is on the disk.
  void sync();

  /// Hint: start to write this range to the disk now, so that `sync` has little left to wait for.
  void startWriteback(uint64_t offset, uint64_t size);

  /// Size when the file was opened or created.
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  File(int fd, std::string path, uint64_t size);

  int fd_;
  std::string path_;
  uint64_t size_;
};

/// SHA-256 (hex) of a whole file.
std::string sha256File(const std::string& path);

}  // namespace weightsmith
