// Reads the short text files by which Linux describes a machine (/proc, /sys). Files that are absent or make no sense give
// an empty result: a description with gaps is still one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// The first line of a file without spaces around it; empty where there is none.
[[nodiscard]] std::string first_line(const std::filesystem::path& file);

/// The file's lines; none where it cannot be read.
[[nodiscard]] std::vector<std::string> lines_of(const std::filesystem::path& file);

/// The whole number (decimal, or hexadecimal after "0x") that a text is, or the one line of a file is.
[[nodiscard]] std::optional<std::int64_t> whole_number(std::string_view text);
[[nodiscard]] std::optional<std::int64_t> number_in(const std::filesystem::path& file);

/// "X" of the line "KEY: X" of a file such as /proc/self/status; empty where there is none.
[[nodiscard]] std::string field_in(const std::filesystem::path& file, std::string_view key);

/// Bytes of a "KEY: N kB" line of a file such as /proc/meminfo.
[[nodiscard]] std::optional<std::uint64_t> kilobytes_in(const std::filesystem::path& file, std::string_view key);

/// Names of the entries of a folder, sorted, with numbers in their order ("node2" before "node10"); none where it is absent.
[[nodiscard]] std::vector<std::string> entries_of(const std::filesystem::path& folder);

/// Numbers as Linux lists them: "0-3,8" to 0, 1, 2, 3, 8. Empty where the text is no such list, or one of more than 65,536.
[[nodiscard]] std::vector<std::int64_t> numbers_of_list(std::string_view list);
/// The other way.
[[nodiscard]] std::string list_of_numbers(std::vector<std::int64_t> numbers);

/// 3221225472 as "3 GiB"; four significant digits.
[[nodiscard]] std::string byte_count_text(std::uint64_t bytes);

}  // namespace quern
