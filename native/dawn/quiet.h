// Keeps two warnings of Dawn off stderr. While it looks for adapters, Dawn prints straight to stderr, past every
// callback, that it reduces limits which no caller asked for; programs that read our stderr must not see that.
#pragma once

namespace weightsmith {

// While one lives, stderr goes to a pipe. At the end everything but those warnings is passed on: nothing that another
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
