// Names of the error codes, and the sentences shared by all rooms.
#include "base/error.h"

#include <cerrno>
#include <system_error>

namespace weightsmith {

namespace {

constexpr size_t kLongestQuote = 200;

}  // namespace

const std::vector<const char*>& allCodes() {
  static const std::vector<const char*> names = {
#define WEIGHTSMITH_CODE(name) "ERR_WEIGHTSMITH_" #name,
      WEIGHTSMITH_CODES(WEIGHTSMITH_CODE)
#undef WEIGHTSMITH_CODE
  };
  return names;
}

const char* codeName(Code code) { return allCodes()[static_cast<size_t>(code)]; }

std::string quoted(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string_view shown = text;
  if (text.size() > kLongestQuote) {
    size_t cut = kLongestQuote;
    // Do not cut a UTF-8 sequence in two.
    while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) cut--;
    shown = text.substr(0, cut);
  }
  std::string out = "\"";
  for (const char c : shown) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  if (shown.size() < text.size()) out += "…";
  return out + '"';
}

Error errnoError(int number, Code fallback, std::string_view action, std::string_view path) {
  Code code = fallback;
  if (number == ENOSPC || number == EDQUOT) code = Code::DISK_FULL;
  if (number == ENOENT) code = Code::NOT_FOUND;
  return Error(code, "Could not " + std::string(action) + " " + quoted(path) + ": " +
                         std::generic_category().message(number) + " (errno " + std::to_string(number) + ").");
}

}  // namespace weightsmith
