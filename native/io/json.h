// Strict JSON for bytes that nobody vouches for. It refuses what other parsers let pass and then read differently:
// duplicate keys, integers that a double cannot hold, text that is not UTF-8; and it bounds size, depth and memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace weightsmith::json {

class Value;
using Array = std::vector<Value>;
/// In the order of the text; keys are unique.
using Object = std::vector<std::pair<std::string, Value>>;

class Value {
 public:
  using Data = std::variant<std::nullptr_t, bool, int64_t, double, std::string, Array, Object>;

  Value() = default;
  explicit Value(Data data) : data_(std::move(data)) {}

  const bool* boolean() const { return std::get_if<bool>(&data_); }
  /// A number written without fraction and exponent, at most 2^53 either way.
  const int64_t* integer() const { return std::get_if<int64_t>(&data_); }
  /// Any number.
  std::optional<double> number() const;
  const std::string* string() const { return std::get_if<std::string>(&data_); }
  const Array* array() const { return std::get_if<Array>(&data_); }
  const Object* object() const { return std::get_if<Object>(&data_); }

  /// Member of an object; null where there is none, or this is no object.
  const Value* find(std::string_view key) const;

  /// "an object", "a string", …: for sentences about what was found.
  const char* kind() const;

 private:
  Data data_ = nullptr;
};

struct Limits {
  size_t bytes = 100'000'000;
  int depth = 16;
  /// Values in one tree: a text of brackets would take forty times its size in memory.
  size_t values = 2'000'000;
};

/// Parses the whole text. `subject` opens the sentence of an Error with that code, as in `The header of "a"`.
Value parse(std::string_view text, Code code, std::string_view subject, const Limits& limits = {});

/// Takes one member; the next is not parsed before it returns.
using Visit = std::function<void(std::string key, Value value)>;

/// Parses a text that is one object and hands over its members one by one: memory and time end with the first member
/// that `visit` refuses, and `limits.values` bounds each member's tree. Keys may repeat here; `visit` has to look.
void parseMembers(std::string_view text, Code code, std::string_view subject, const Limits& limits, const Visit& visit);

}  // namespace weightsmith::json
