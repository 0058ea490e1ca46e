#include "dawn/suppress_stderr.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <mutex>
#include <string>
#include <string_view>

namespace weightsmith {

namespace {

// Limits that no caller asked for; a loader without drivers, which is an answer and no fault; Mesa's wish for a screen.
constexpr std::string_view kNoise[] = {"artificially reduced from", "Found no drivers", "XDG_RUNTIME_DIR"};

bool isNoise(std::string_view line) {
  return std::any_of(std::begin(kNoise), std::end(kNoise),
                     [&](std::string_view noise) { return line.find(noise) != std::string_view::npos; });
}

// File descriptor 2 belongs to the process, so does the lock.
std::mutex& lock() {
  static std::mutex mutex;
  return mutex;
}

void pass(std::string_view line) {
  while (!line.empty()) {
    const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
    if (written <= 0) return;
    line.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

SuppressStderr::SuppressStderr() {
  lock().lock();
  int ends[2];
  std::fflush(stderr);
  if (pipe(ends) != 0) return;
  fcntl(ends[0], F_SETFD, FD_CLOEXEC);
  // A child process that starts meanwhile inherits the writing end: never wait for it.
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  stderr_ = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  if (stderr_ < 0 || dup2(ends[1], STDERR_FILENO) < 0) {
    close(ends[0]);
    if (stderr_ >= 0) close(stderr_);
    stderr_ = -1;
  } else {
    pipe_ = ends[0];
  }
  close(ends[1]);
}

SuppressStderr::~SuppressStderr() {
  if (stderr_ >= 0) {
    std::fflush(stderr);
    dup2(stderr_, STDERR_FILENO);
    close(stderr_);
    std::string text;
    char buffer[4096];
    for (ssize_t got; (got = read(pipe_, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(got));
    close(pipe_);
    for (size_t start = 0; start < text.size();) {
      const size_t end = text.find('\n', start);
      const size_t next = end == std::string::npos ? text.size() : end + 1;
      const std::string_view line = std::string_view(text).substr(start, next - start);
      if (!isNoise(line)) pass(line);
      start = next;
    }
  }
  lock().unlock();
}

}  // namespace weightsmith
