// Metadata values of GGUF files: sizes, how numbers are read, how text of a file is shown.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "math/result.hpp"
#include "model/gguf_file.hpp"

namespace quern::internal {

/// The type with an id of a file; nothing where there is none.
[[nodiscard]] std::optional<GgufType> gguf_type(std::uint32_t id);

/// Bytes of a number or bool; 0 for strings and arrays.
[[nodiscard]] std::size_t number_bytes(GgufType type);

/// A number or bool. int64 for every integer that fits, uint64 for those above.
using GgufNumber = std::variant<std::int64_t, std::uint64_t, double, bool>;
/// Reads a little-endian number or bool (type is no string or array) from number_bytes(type) bytes of any alignment.
[[nodiscard]] GgufNumber read_number(GgufType type, const std::byte* bytes);
/// Element `index`, below count, of an array of numbers or bools.
[[nodiscard]] GgufNumber element_of(const GgufArray& array, std::int64_t index);

/// Text of a file for people: bytes that are not printable ASCII or part of valid UTF-8 text as \xHH, control characters
/// too, so that a file cannot command a terminal. Longer ones than `max_bytes` are cut, with "..." at the end.
[[nodiscard]] std::string shown(std::string_view text, std::size_t max_bytes = 80);

/// The value as messages name it: "a string", "an array of f32", "u32 7", "f32 0.5", "bool true".
[[nodiscard]] std::string described(const GgufValue& value);

}  // namespace quern::internal
