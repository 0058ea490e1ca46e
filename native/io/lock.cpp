// flock, because it belongs to the open file: two jobs of one process exclude each other too.
#include "io/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"

namespace weightsmith {

namespace {

/// Whether the descriptor is still the file of that name; the last holder may have removed it before it let go.
bool isCurrent(int fd, const std::string& path) {
  struct stat held = {}, named = {};
  return ::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

}  // namespace

FileLock::FileLock(const std::string& path) {
  for (;;) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) throw errnoError(errno, Code::IO_WRITE, "open the lock", path);
    int result = 0;
    do {
      result = ::flock(fd_, LOCK_EX | LOCK_NB);
    } while (result != 0 && errno == EINTR);
    // A file system without locks (ENOSYS, EOPNOTSUPP) can still be written to.
    const int number = result == 0 || errno == ENOSYS || errno == EOPNOTSUPP ? 0 : errno;
    if (number == 0 && isCurrent(fd_, path)) return;
    ::close(fd_);
    if (number == EWOULDBLOCK) throw Error(Code::BUSY, "Another process or job holds the lock " + quoted(path) + ".");
    if (number != 0) throw errnoError(number, Code::IO_WRITE, "lock", path);
  }
}

FileLock::~FileLock() { ::close(fd_); }

}  // namespace weightsmith
