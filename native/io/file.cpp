// Files over POSIX descriptors. Reads and writes loop, because the system may do less than asked or be interrupted.
#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/sha256.h"

namespace weightsmith {

namespace {

// macOS refuses single calls of 2 GiB and more.
constexpr size_t kLargestCall = size_t{1} << 30;
constexpr size_t kHashChunk = size_t{1} << 20;

off_t checkedOffset(uint64_t offset, uint64_t size, Code code, const std::string& path) {
  constexpr auto kLargest = static_cast<uint64_t>(std::numeric_limits<off_t>::max());
  if (offset > kLargest || size > kLargest - offset) {
    throw Error(code, "Byte range " + std::to_string(offset) + " + " + std::to_string(size) + " of " + quoted(path) +
                          " lies beyond the largest file offset, " + std::to_string(kLargest) + ".");
  }
  return static_cast<off_t>(offset);
}

}  // namespace

File::File(int fd, std::string path, uint64_t size) : fd_(fd), path_(std::move(path)), size_(size) {}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)), size_(other.size_), kept_(other.kept_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(size_, other.size_);
  std::swap(kept_, other.kept_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

File File::openRead(const std::string& path) {
  // O_NONBLOCK: a named pipe must be refused below, not waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw errnoError(errno, Code::IO_READ, "open", path);
  File file(fd, path, 0);
  struct stat status = {};
  if (::fstat(fd, &status) != 0) throw errnoError(errno, Code::IO_READ, "get the size of", path);
  if (!S_ISREG(status.st_mode)) {
    throw Error(Code::IO_READ, "Could not read " + quoted(path) + ": expected a regular file, found a " +
                                   (S_ISDIR(status.st_mode) ? "folder." : "special file."));
  }
  file.size_ = static_cast<uint64_t>(status.st_size);
  return file;
}

File File::create(const std::string& path, uint64_t size, bool keep) {
  File file = append(path);
  file.kept_ = keep && file.size_ == size;
  if (file.kept_) return file;
  file.resize(0);
  file.resize(size);
  return file;
}

File File::append(const std::string& path) {
  // A link in the place of an output could lead anywhere.
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) throw errnoError(errno, Code::IO_WRITE, "create", path);
  File file(fd, path, 0);
  struct stat status = {};
  if (::fstat(fd, &status) != 0) throw errnoError(errno, Code::IO_WRITE, "get the size of", path);
  file.size_ = static_cast<uint64_t>(status.st_size);
  return file;
}

void File::resize(uint64_t size) {
  const off_t length = checkedOffset(size, 0, Code::IO_WRITE, path_);
  int result = 0;
  do {
    result = ::ftruncate(fd_, length);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    throw errnoError(errno, Code::IO_WRITE, "give the size of " + std::to_string(size) + " bytes to", path_);
  }
  size_ = size;
}

void File::readAt(uint64_t offset, void* data, size_t size) const {
  off_t at = checkedOffset(offset, size, Code::IO_READ, path_);
  auto bytes = static_cast<char*>(data);
  size_t left = size;
  while (left > 0) {
    const ssize_t got = ::pread(fd_, bytes, std::min(left, kLargestCall), at);
    if (got < 0) {
      if (errno == EINTR) continue;
      throw errnoError(errno, Code::IO_READ,
                       "read " + std::to_string(size) + " bytes at " + std::to_string(offset) + " of", path_);
    }
    if (got == 0) {
      throw Error(Code::IO_READ, "File " + quoted(path_) + " is truncated: expected " + std::to_string(size) +
                                     " bytes at offset " + std::to_string(offset) + ", found " +
                                     std::to_string(size - left) + ".");
    }
    bytes += got;
    at += got;
    left -= static_cast<size_t>(got);
  }
}

void File::writeAt(uint64_t offset, const void* data, size_t size) {
  off_t at = checkedOffset(offset, size, Code::IO_WRITE, path_);
  auto bytes = static_cast<const char*>(data);
  size_t left = size;
  while (left > 0) {
    const ssize_t put = ::pwrite(fd_, bytes, std::min(left, kLargestCall), at);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      throw errnoError(put < 0 ? errno : EIO, Code::IO_WRITE,
                       "write " + std::to_string(size) + " bytes at " + std::to_string(offset) + " of", path_);
    }
    bytes += put;
    at += put;
    left -= static_cast<size_t>(put);
  }
}

void File::sync() {
#if defined(__APPLE__)
  // fsync on macOS leaves the bytes in the drive's cache; not every file system has the stronger call.
  if (::fcntl(fd_, F_FULLFSYNC) == 0) return;
#endif
  int result = 0;
  do {
    result = ::fsync(fd_);
  } while (result != 0 && errno == EINTR);
  if (result != 0) throw errnoError(errno, Code::IO_WRITE, "flush to disk", path_);
}

void File::syncData() {
#if defined(__linux__)
  int result = 0;
  do {
    result = ::fdatasync(fd_);
  } while (result != 0 && errno == EINTR);
  if (result != 0) throw errnoError(errno, Code::IO_WRITE, "flush to disk", path_);
#else
  sync();
#endif
}

void File::syncPath(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw errnoError(errno, Code::IO_WRITE, "open", path);
  File(fd, path, 0).sync();
}

void File::startWriteback(uint64_t offset, uint64_t size) {
#if defined(__linux__)
  // Only a hint: file systems without it lose nothing but time.
  ::sync_file_range(fd_, static_cast<off_t>(offset), static_cast<off_t>(size), SYNC_FILE_RANGE_WRITE);
#else
  (void)offset;
  (void)size;
#endif
}

std::string sha256File(const std::string& path) {
  const File file = File::openRead(path);
  std::vector<uint8_t> chunk(static_cast<size_t>(std::min<uint64_t>(file.size(), kHashChunk)));
  Sha256 hash;
  for (uint64_t at = 0; at < file.size();) {
    const auto size = static_cast<size_t>(std::min<uint64_t>(file.size() - at, chunk.size()));
    file.readAt(at, chunk.data(), size);
    hash.update(chunk.data(), size);
    at += size;
  }
  return hash.hex();
}

}  // namespace weightsmith
