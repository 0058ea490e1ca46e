// Keeps what Dawn and drivers say past every callback off stderr while adapters are looked for: that limits are reduced
// which no caller asked for, that there is no driver, that there is no screen. Programs read our stderr.
#pragma once

namespace weightsmith {

// While one lives, stderr goes to a pipe. At the end everything but those lines is passed on: nothing that another
// thread writes meanwhile is lost. One at a time in a process.
class QuietStderr {
 public:
  QuietStderr();
  ~QuietStderr();
  QuietStderr(const QuietStderr&) = delete;
  QuietStderr& operator=(const QuietStderr&) = delete;

 private:
  int stderr_ = -1;
  int pipe_ = -1;
};

}  // namespace weightsmith
