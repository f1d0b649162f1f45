// Text as Python's str has it: characters are code points, whitespace and line ends are Unicode's, case is mapped for every
// alphabet. All text is valid UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quern::jinja {

[[nodiscard]] std::size_t count_characters(std::string_view text);
/// Bytes of the character that starts at `at`.
[[nodiscard]] std::size_t character_bytes(std::string_view text, std::size_t at);
/// The byte offset of a character's index; text.size() for indices at or behind the end.
[[nodiscard]] std::size_t byte_offset(std::string_view text, std::size_t character);
[[nodiscard]] std::int32_t code_point_at(std::string_view text, std::size_t at);

/// std::string_view::find in time linear in the text whatever the part is.
[[nodiscard]] std::size_t find_text(std::string_view text, std::string_view part, std::size_t from);
/// The last occurrence that ends at or before `end`; npos where there is none.
[[nodiscard]] std::size_t rfind_text(std::string_view text, std::string_view part, std::size_t end);

[[nodiscard]] bool is_space(std::int32_t code_point);
/// Without the characters of `set` (whitespace where `set` is null) at either side.
[[nodiscard]] std::string_view strip(std::string_view text, const std::string_view* set = nullptr, bool left = true,
                                     bool right = true);
/// Parts between runs of whitespace, at most `limit` splits (negative: all), from the left or from the right.
[[nodiscard]] std::vector<std::string_view> split_words(std::string_view text, std::int64_t limit, bool from_right);
[[nodiscard]] std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);
/// `count` replacements at most; negative: all. An empty `from` matches between characters.
[[nodiscard]] std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                                       std::int64_t count);

[[nodiscard]] std::string upper(std::string_view text);
[[nodiscard]] std::string lower(std::string_view text);
[[nodiscard]] std::string capitalize(std::string_view text);  ///< first character upper, the others lower
[[nodiscard]] std::string title(std::string_view text);       ///< str.title(): words are runs of letters
[[nodiscard]] std::string swap_case(std::string_view text);

/// Simple case mappings of one character (jinja_case.cpp); itself where there is none.
[[nodiscard]] std::int32_t upper_of(std::int32_t code_point);
[[nodiscard]] std::int32_t lower_of(std::int32_t code_point);

/// Whether Python's repr() shows the character as it is.
[[nodiscard]] bool is_printable(std::int32_t code_point);

}  // namespace quern::jinja
