// Keeps what Dawn and drivers say past every callback off stderr while adapters are looked for: that limits are reduced
// which no caller asked for, that there is no driver, that there is no screen. Programs read our stderr.
// File descriptor 2 belongs to the whole process, so this is kept to the opening of devices.
#pragma once

namespace weightsmith {

// While one lives, stderr goes to a pipe. At the end everything but those lines is passed on: nothing that another
// thread writes meanwhile is lost. One at a time in a process.
class SuppressStderr {
 public:
  SuppressStderr();
  ~SuppressStderr();
  SuppressStderr(const SuppressStderr&) = delete;
  SuppressStderr& operator=(const SuppressStderr&) = delete;

 private:
  int stderr_ = -1;
  int pipe_ = -1;
};

}  // namespace weightsmith
