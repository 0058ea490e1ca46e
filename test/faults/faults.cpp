// A layer of failing file calls for tests, put before libc with LD_PRELOAD, so that the program under test is the one
// that ships. WEIGHTSMITH_FAULT is CALL:WHAT:PATH:AFTER - from call number AFTER (from 0) of CALL on a file whose path
// contains PATH, do WHAT: a number is an errno to fail with, `short` moves one byte less than asked for where that is
// more than one, `once=NUMBER` fails a single time, `slow=MILLISECONDS` waits before each call, `kill` ends the process
// there.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>

namespace {

struct Fault {
  char call[32] = "", what[32] = "", path[256] = "";
  long after = 0;
  std::atomic<long> seen{0};

  Fault() {
    const char* text = getenv("WEIGHTSMITH_FAULT");
    if (text) sscanf(text, "%31[^:]:%31[^:]:%255[^:]:%ld", call, what, path, &after);
  }

  /// Whether to fail this call, with errno set; shortens `size` where that is asked for.
  bool strikes(const char* name, const char* target, size_t* size = nullptr) {
    if (strcmp(name, call) != 0 || !target || !strstr(target, path)) return false;
    const long number = seen++;
    if (number < after) return false;
    if (strncmp(what, "slow=", 5) == 0) {
      usleep(static_cast<useconds_t>(atol(what + 5) * 1000));
      return false;
    }
    if (strcmp(what, "short") == 0) {
      if (size && *size > 1) *size -= 1 + *size / 3;
      return false;
    }
    if (strcmp(what, "kill") == 0) raise(SIGKILL);
    const bool once = strncmp(what, "once=", 5) == 0;
    if (once && number != after) return false;
    errno = atoi(once ? what + 5 : what);
    return true;
  }

  bool strikes(const char* name, int fd, size_t* size = nullptr) {
    if (strcmp(name, call) != 0) return false;
    char link[64], target[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 0) return false;
    target[length] = 0;
    return strikes(name, target, size);
  }
};

Fault& fault() {
  static Fault one;
  return one;
}

template <typename F>
F next(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

#define MOVE(name, label, bytes, offset)                                           \
  ssize_t name(int fd, bytes data, size_t size, offset at) {                       \
    static const auto real = next<ssize_t (*)(int, bytes, size_t, offset)>(#name); \
    return fault().strikes(label, fd, &size) ? -1 : real(fd, data, size, at);      \
  }
MOVE(pread, "read", void*, off_t)
MOVE(pread64, "read", void*, off64_t)
MOVE(pwrite, "write", const void*, off_t)
MOVE(pwrite64, "write", const void*, off64_t)

ssize_t write(int fd, const void* data, size_t size) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  return fault().strikes("write", fd, &size) ? -1 : real(fd, data, size);
}

#define OF_FILE(name, label, type, ...)         \
  int name(int fd __VA_OPT__(, ) __VA_ARGS__) { \
    static const auto real = next<type>(#name); \
    if (fault().strikes(label, fd)) return -1;  \
    return real(fd PASS);                       \
  }
#define PASS
OF_FILE(fsync, "sync", int (*)(int))
OF_FILE(fdatasync, "sync", int (*)(int))
#undef PASS
#define PASS , length
OF_FILE(ftruncate, "resize", int (*)(int, off_t), off_t length)
OF_FILE(ftruncate64, "resize", int (*)(int, off64_t), off64_t length)
#undef PASS

#define OPEN(name)                                                        \
  int name(const char* path, int flags, ...) {                            \
    static const auto real = next<int (*)(const char*, int, ...)>(#name); \
    va_list rest;                                                         \
    va_start(rest, flags);                                                \
    const mode_t mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0;     \
    va_end(rest);                                                         \
    return fault().strikes("open", path) ? -1 : real(path, flags, mode);  \
  }
OPEN(open)
OPEN(open64)

int rename(const char* from, const char* to) {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  return fault().strikes("rename", from) ? -1 : real(from, to);
}

}  // extern "C"
