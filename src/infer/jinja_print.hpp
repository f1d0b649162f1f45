// Values as text: Python's str() and repr(), and JSON as json.dumps writes it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "infer/jinja_value.hpp"

namespace quern::jinja {

/// str(): text itself, nothing for undefined values, repr() of the others. Lives as long as the heap.
[[nodiscard]] std::string_view to_text(Heap& heap, const Value& value);
/// repr(): text in quotes with escapes.
void append_repr(Builder& out, const Value& value, int depth = 0);
/// The shortest digits that read back as the same number, as Python writes floats.
[[nodiscard]] std::string float_text(double value);

/// The options of json.dumps that templates use.
struct JsonOptions {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<std::string> indent;  ///< of one level
  std::optional<std::string> item_separator, key_separator;
};
/// Fails on what JSON has no form for: undefined values, functions, iterators.
void append_json(Builder& out, const Value& value, const JsonOptions& options, int depth = 0);

}  // namespace quern::jinja
