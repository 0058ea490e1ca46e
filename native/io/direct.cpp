#include "io/direct.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "base/error.h"

namespace weightsmith {

namespace {

constexpr uint64_t kPage = 4096;  // what every file system asks of offsets, sizes and addresses, and the cache's unit
constexpr uint64_t kPiece = 1ull << 20;  // stays in a core's cache, so that copying into it costs little

}  // namespace

void DirectFile::Free::operator()(uint8_t* memory) const { std::free(memory); }

std::unique_ptr<DirectFile> DirectFile::open(const std::string& path, uint64_t size) {
#if defined(__linux__)
  const int fd = ::open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return nullptr;
  std::unique_ptr<DirectFile> file(new DirectFile(fd, path));
  int result = 0;
  do {
    result = ::fallocate(fd, 0, 0, static_cast<off_t>(size));
  } while (result != 0 && errno == EINTR);
  if (result != 0 && (errno == ENOSPC || errno == EDQUOT)) {
    throw errnoError(errno, Code::IO_WRITE, "reserve " + std::to_string(size) + " bytes for", path);
  }
  return file;
#else
  (void)path;
  (void)size;
  return nullptr;
#endif
}

DirectFile::~DirectFile() { ::close(fd_); }

DirectFile::Range DirectFile::within(uint64_t offset, uint64_t size) {
  const Range range{(offset + kPage - 1) / kPage * kPage, (offset + size) / kPage * kPage};
  return range.end >= range.begin + kPiece ? range : Range{};
}

DirectFile::Aligned DirectFile::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!buffers_.empty()) {
      Aligned buffer = std::move(buffers_.back());
      buffers_.pop_back();
      return buffer;
    }
  }
  Aligned buffer(static_cast<uint8_t*>(std::aligned_alloc(kPage, kPiece)));
  if (!buffer) throw std::bad_alloc();
  return buffer;
}

void DirectFile::give(Aligned buffer) {
  const std::lock_guard lock(mutex_);
  buffers_.push_back(std::move(buffer));
}

uint64_t DirectFile::writeAt(uint64_t offset, const uint8_t* data, uint64_t size) {
  Aligned buffer = take();
  uint64_t done = 0;
  while (done < size) {
    const uint64_t part = std::min(kPiece, size - done);
    std::memcpy(buffer.get(), data + done, part);
    ssize_t put = 0;
    do {
      put = ::pwrite(fd_, buffer.get(), part, static_cast<off_t>(offset + done));
    } while (put < 0 && errno == EINTR);
    if (put < 0 && errno != EINVAL && errno != EOPNOTSUPP) {
      throw errnoError(errno, Code::IO_WRITE,
                       "write " + std::to_string(size) + " bytes at " + std::to_string(offset) + " of", path_);
    }
    if (put > 0) done += static_cast<uint64_t>(put);
    if (put != static_cast<ssize_t>(part)) break;
  }
  give(std::move(buffer));
  return done;
}

}  // namespace weightsmith
