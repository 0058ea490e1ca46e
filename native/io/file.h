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

  /// Creates or empties a file and gives it its full size, for writing and reading back. With `keep`, a file that is
  /// there with that size already stays as it is.
  static File create(const std::string& path, uint64_t size, bool keep = false);

  /// Opens a file for writing and reading back, as it is; makes it where it is missing.
  static File append(const std::string& path);

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

  /// The same for the bytes alone, without the times of the file: for what has its size already.
  void syncData();

  /// Cuts or extends the file.
  void resize(uint64_t size);

  /// Hint: start to write this range to the disk now, so that `sync` has little left to wait for.
  void startWriteback(uint64_t offset, uint64_t size);

  /// Size when the file was opened, created or last given one.
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  /// Whether `create` found the file there and kept it.
  bool kept() const { return kept_; }

 private:
  File(int fd, std::string path, uint64_t size);

  int fd_;
  std::string path_;
  uint64_t size_;
  bool kept_ = false;
};

/// SHA-256 (hex) of a whole file.
std::string sha256File(const std::string& path);

}  // namespace weightsmith
