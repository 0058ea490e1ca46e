// A recursive descent that goes no deeper than the limit, so hostile nesting cannot exhaust the stack.
#include "io/json.h"

#include <algorithm>
#include <limits>
#include <locale>
#include <numeric>
#include <sstream>

namespace weightsmith::json {

namespace {

constexpr int64_t kLargestInteger = int64_t{1} << 53;

bool isDigit(int c) { return c >= '0' && c <= '9'; }

void appendUtf8(std::string& out, uint32_t point) {
  const auto put = [&out](uint32_t byte) { out += static_cast<char>(byte); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xC0 | point >> 6);
    put(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    put(0xE0 | point >> 12);
    put(0x80 | (point >> 6 & 0x3F));
    put(0x80 | (point & 0x3F));
  } else {
    put(0xF0 | point >> 18);
    put(0x80 | (point >> 12 & 0x3F));
    put(0x80 | (point >> 6 & 0x3F));
    put(0x80 | (point & 0x3F));
  }
}

class Parser {
 public:
  Parser(std::string_view text, Code code, std::string_view subject, const Limits& limits)
      : text_(text), code_(code), subject_(subject), limits_(limits) {}

  Value document() {
    checkSize();
    skipSpace();
    Value root = value(0);
    end();
    return root;
  }

  void members(const Visit& visit) {
    checkSize();
    skipSpace();
    if (peek() != '{') fail("expected an object, found " + here());
    eachMember(1, [&](std::string key, Value value) {
      visit(std::move(key), std::move(value));
      values_ = 0;
    });
    end();
  }

 private:
  void checkSize() const {
    if (text_.size() <= limits_.bytes) return;
    throw Error(code_, std::string(subject_) + " is too large: expected at most " + std::to_string(limits_.bytes) +
                           " bytes of JSON, found " + std::to_string(text_.size()) + ".");
  }

  void end() {
    skipSpace();
    if (at_ < text_.size()) fail("expected the end of the text, found " + here());
  }

  [[noreturn]] void fail(const std::string& why) const { failAt(at_, why); }

  [[noreturn]] void failAt(size_t at, const std::string& why) const {
    throw Error(code_, std::string(subject_) + " is not valid JSON at byte " + std::to_string(at) + ": " + why + ".");
  }

  /// The byte at the cursor, or -1 at the end.
  int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }

  std::string here() const {
    const int c = peek();
    if (c < 0) return "the end of the text";
    if (c < 0x80) return quoted(text_.substr(at_, 1));
    static constexpr char kHex[] = "0123456789abcdef";
    return std::string("byte 0x") + kHex[c >> 4] + kHex[c & 15];
  }

  void skipSpace() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return;
      at_++;
    }
  }

  void expect(char c, const char* what) {
    if (peek() != c) fail(std::string("expected ") + what + ", found " + here());
    at_++;
  }

  bool accept(char c) {
    if (peek() != c) return false;
    at_++;
    return true;
  }

  Value literal(std::string_view word, Value::Data data) {
    if (text_.substr(at_, word.size()) != word) fail("expected a value, found " + here());
    at_ += word.size();
    return Value(std::move(data));
  }

  Value value(int depth) {
    if (++values_ > limits_.values) {
      fail("expected at most " + std::to_string(limits_.values) + " values, found more");
    }
    const int c = peek();
    if (c == '{' || c == '[') {
      if (depth == limits_.depth) {
        fail("expected nesting of at most " + std::to_string(limits_.depth) + " levels, found more");
      }
      return c == '{' ? object(depth + 1) : array(depth + 1);
    }
    if (c == '"') return Value(string());
    if (c == 't') return literal("true", true);
    if (c == 'f') return literal("false", false);
    if (c == 'n') return literal("null", nullptr);
    if (c == '-' || isDigit(c)) return number();
    fail("expected a value, found " + here());
  }

  Value array(int depth) {
    at_++;
    Array items;
    skipSpace();
    if (accept(']')) return Value(std::move(items));
    for (;;) {
      skipSpace();
      items.push_back(value(depth));
      skipSpace();
      if (accept(']')) return Value(std::move(items));
      expect(',', "',' or ']'");
    }
  }

  Value object(int depth) {
    const size_t start = at_;
    Object members;
    eachMember(depth, [&](std::string key, Value value) { members.emplace_back(std::move(key), std::move(value)); });
    refuseDuplicates(members, start);
    return Value(std::move(members));
  }

  template <typename Take>
  void eachMember(int depth, const Take& take) {
    at_++;
    skipSpace();
    if (accept('}')) return;
    for (;;) {
      skipSpace();
      if (peek() != '"') fail("expected a key in double quotes, found " + here());
      std::string key = string();
      skipSpace();
      expect(':', "':'");
      skipSpace();
      take(std::move(key), value(depth));
      skipSpace();
      if (accept('}')) return;
      expect(',', "',' or '}'");
    }
  }

  void refuseDuplicates(const Object& members, size_t start) const {
    // Sorted instead of hashed: no choice of keys makes this slow.
    std::vector<size_t> order(members.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return members[a].first < members[b].first; });
    const auto twice = std::adjacent_find(order.begin(), order.end(),
                                          [&](size_t a, size_t b) { return members[a].first == members[b].first; });
    if (twice != order.end()) {
      failAt(start,
             "expected unique keys in the object that starts here, found " + quoted(members[*twice].first) + " twice");
    }
  }

  Value number() {
    const size_t start = at_;
    const bool negative = accept('-');
    if (!isDigit(peek())) fail("expected a digit, found " + here());
    int64_t whole = 0;
    bool exact = true;
    if (accept('0')) {
      if (isDigit(peek())) fail("expected no digit after a leading zero, found " + here());
    } else {
      for (; isDigit(peek()); at_++) {
        if (exact) whole = whole * 10 + (peek() - '0');
        if (whole > kLargestInteger) exact = false;
      }
    }
    bool integer = true;
    if (accept('.')) {
      integer = false;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      integer = false;
      at_++;
      if (peek() == '+' || peek() == '-') at_++;
      digits();
    }
    const std::string_view written = text_.substr(start, at_ - start);
    if (integer) {
      if (!exact) {
        failAt(start, "expected integers of at most 2^53 = " + std::to_string(kLargestInteger) + ", found " +
                          std::string(written.substr(0, 40)));
      }
      // Only a double can hold minus zero.
      if (negative && whole == 0) return Value(-0.0);
      return Value(negative ? -whole : whole);
    }
    // A stream of its own, because strtod follows the process's locale and not every library has from_chars.
    std::istringstream stream{std::string(written)};
    stream.imbue(std::locale::classic());
    double parsed = 0;
    stream >> parsed;
    if (stream.fail()) {
      failAt(start, "expected a number that a double can hold, found " + std::string(written.substr(0, 40)));
    }
    return Value(parsed);
  }

  void digits() {
    if (!isDigit(peek())) fail("expected a digit, found " + here());
    while (isDigit(peek())) at_++;
  }

  std::string string() {
    at_++;
    std::string out;
    for (;;) {
      const size_t start = at_;
      while (at_ < text_.size()) {
        const auto c = static_cast<unsigned char>(text_[at_]);
        if (c == '"' || c == '\\' || c < 0x20 || c >= 0x80) break;
        at_++;
      }
      out.append(text_, start, at_ - start);
      const int c = peek();
      if (c < 0) fail("expected the end of a string, found the end of the text");
      if (c < 0x20) fail("expected control characters in strings to be escaped, found " + here());
      if (c >= 0x80) {
        const size_t length = utf8Length();
        out.append(text_, at_, length);
        at_ += length;
        continue;
      }
      at_++;
      if (c == '"') return out;
      escape(out);
    }
  }

  /// Length of the well-formed sequence at the cursor (Unicode, table 3-7).
  size_t utf8Length() const {
    const auto byte = [this](size_t i) -> int {
      return at_ + i < text_.size() ? static_cast<unsigned char>(text_[at_ + i]) : -1;
    };
    const auto within = [&byte](size_t i, int low, int high) { return byte(i) >= low && byte(i) <= high; };
    const int lead = byte(0);
    if (lead >= 0xC2 && lead <= 0xDF && within(1, 0x80, 0xBF)) return 2;
    if (lead >= 0xE0 && lead <= 0xEF) {
      const int low = lead == 0xE0 ? 0xA0 : 0x80;
      const int high = lead == 0xED ? 0x9F : 0xBF;
      if (within(1, low, high) && within(2, 0x80, 0xBF)) return 3;
    }
    if (lead >= 0xF0 && lead <= 0xF4) {
      const int low = lead == 0xF0 ? 0x90 : 0x80;
      const int high = lead == 0xF4 ? 0x8F : 0xBF;
      if (within(1, low, high) && within(2, 0x80, 0xBF) && within(3, 0x80, 0xBF)) return 4;
    }
    fail("expected UTF-8, found " + here());
  }

  void escape(std::string& out) {
    const int c = peek();
    switch (c) {
      case '"':
      case '\\':
      case '/':
        out += static_cast<char>(c);
        break;
      case 'b':
        out += '\b';
        break;
      case 'f':
        out += '\f';
        break;
      case 'n':
        out += '\n';
        break;
      case 'r':
        out += '\r';
        break;
      case 't':
        out += '\t';
        break;
      case 'u':
        at_++;
        appendUtf8(out, codePoint());
        return;
      default:
        fail("expected an escape sequence of JSON after '\\', found " + here());
    }
    at_++;
  }

  uint32_t codePoint() {
    const size_t start = at_;
    const uint32_t first = hexQuad();
    if (first < 0xD800 || first > 0xDFFF) return first;
    if (first <= 0xDBFF && accept('\\') && accept('u')) {
      const uint32_t second = hexQuad();
      if (second >= 0xDC00 && second <= 0xDFFF) return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    }
    failAt(start, "expected a pair of surrogates, found one alone");
  }

  uint32_t hexQuad() {
    uint32_t out = 0;
    for (int i = 0; i < 4; i++, at_++) {
      const int c = peek();
      int digit = 0;
      if (isDigit(c)) {
        digit = c - '0';
      } else if (c >= 'a' && c <= 'f') {
        digit = c - 'a' + 10;
      } else if (c >= 'A' && c <= 'F') {
        digit = c - 'A' + 10;
      } else {
        fail("expected four hexadecimal digits, found " + here());
      }
      out = out << 4 | static_cast<uint32_t>(digit);
    }
    return out;
  }

  std::string_view text_;
  Code code_;
  std::string_view subject_;
  Limits limits_;
  size_t at_ = 0;
  size_t values_ = 0;
};

}  // namespace

std::optional<double> Value::number() const {
  if (const int64_t* exact = integer()) return static_cast<double>(*exact);
  if (const double* any = std::get_if<double>(&data_)) return *any;
  return std::nullopt;
}

const Value* Value::find(std::string_view key) const {
  if (const Object* members = object()) {
    for (const auto& [name, member] : *members) {
      if (name == key) return &member;
    }
  }
  return nullptr;
}

const char* Value::kind() const {
  static constexpr const char* kKinds[] = {"null",     "a boolean", "an integer", "a number that is no integer",
                                           "a string", "an array",  "an object"};
  return kKinds[data_.index()];
}

Value parse(std::string_view text, Code code, std::string_view subject, const Limits& limits) {
  return Parser(text, code, subject, limits).document();
}

void parseMembers(std::string_view text, Code code, std::string_view subject, const Limits& limits,
                  const Visit& visit) {
  Parser(text, code, subject, limits).members(visit);
}

}  // namespace weightsmith::json
