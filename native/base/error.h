// Coded errors: the one type that leaves every room of the engine. The code is what programs test and the message
// is one full sentence for people, so both are fixed where the facts are known and only passed on above.
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <vector>

namespace weightsmith {

#define WEIGHTSMITH_CODES(X) \
  X(LOAD)                    \
  X(NO_DEVICE)               \
  X(DEVICE_LOST)             \
  X(OUT_OF_MEMORY)           \
  X(KERNEL)                  \
  X(DISPOSED)                \
  X(ABORTED)                 \
  X(INTERNAL)                \
  X(IO_READ)                 \
  X(IO_WRITE)                \
  X(DISK_FULL)               \
  X(FORMAT)                  \
  X(INDEX)                   \
  X(MISSING_TENSOR)          \
  X(SHAPE_MISMATCH)          \
  X(DTYPE)                   \
  X(RECIPE)                  \
  X(ARGUMENT)                \
  X(OUTPUT_EXISTS)           \
  X(OUTPUT_INSIDE_INPUT)     \
  X(NOT_FOUND)               \
  X(NON_FINITE)              \
  X(VERIFY)                  \
  X(OUTSIDE)                 \
  X(BUSY)                    \
  X(INPUT_CHANGED)           \
  X(RESUME)                  \
  X(COMMAND)

enum class Code {
#define WEIGHTSMITH_CODE(name) name,
  WEIGHTSMITH_CODES(WEIGHTSMITH_CODE)
#undef WEIGHTSMITH_CODE
};

/// `ERR_WEIGHTSMITH_…`.
const char* codeName(Code code);

/// Names of all codes, in the order of the enumeration.
const std::vector<const char*>& allCodes();

class Error : public std::exception {
 public:
  Error(Code code, std::string message) : code(code), message(std::move(message)) {}
  const char* what() const noexcept override { return message.c_str(); }

  Code code;
  std::string message;
};

/// The text in double quotes, control characters escaped and long text cut: for names that come from files.
std::string quoted(std::string_view text);

/// Error for a failed system call: ENOSPC and EDQUOT become DISK_FULL, ENOENT becomes NOT_FOUND, anything else
/// `fallback` (IO_READ or IO_WRITE). `action` completes "Could not …", as in "open".
Error errnoError(int number, Code fallback, std::string_view action, std::string_view path);

}  // namespace weightsmith
