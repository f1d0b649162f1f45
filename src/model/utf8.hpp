// UTF-8 (RFC 3629): strict decoding, where invalid bytes are a normal case and never lost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quern {

/// One step through a text: a character, or one byte that belongs to none.
struct Utf8Step {
  std::int32_t code_point = -1;  ///< -1: the byte is not part of a valid character
  std::size_t bytes = 1;
};

/// The character that starts at `at` (< text.size()). Surrogates, overlong forms and values above U+10FFFF are invalid.
[[nodiscard]] Utf8Step utf8_step(std::string_view text, std::size_t at);

/// Offset of the first byte that is not part of a valid character; npos when there is none.
[[nodiscard]] std::size_t find_invalid_utf8(std::string_view text);

/// Appends a code point (a valid one: below 0x110000, no surrogate).
void append_utf8(std::string& text, std::int32_t code_point);

/// Length of the longest prefix that does not end inside a character which more bytes could complete. At most 3 bytes are
/// left over; bytes that can never become a character are not held back.
[[nodiscard]] std::size_t complete_utf8_prefix(std::string_view text);

/// The nearest character boundary at or before `at`: steps back over at most 3 continuation bytes. `at` <= text.size().
[[nodiscard]] std::size_t utf8_boundary_before(std::string_view text, std::size_t at);

}  // namespace quern
