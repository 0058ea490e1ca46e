// A lock on a file: held by one process or job at a time, and gone with the process however it ends, so that nothing
// has to be cleaned up after a crash.
#pragma once

#include <string>

namespace weightsmith {

class FileLock {
 public:
  /// Makes the file where it is missing, and locks it. Error BUSY where another holder has it.
  explicit FileLock(const std::string& path);
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  ~FileLock();

 private:
  int fd_ = -1;
};

}  // namespace weightsmith
