#include "math/system_files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <system_error>
#include <utility>

namespace quern {
namespace {

/// More processors or nodes than Linux can have; a list that claims more is not one.
constexpr std::int64_t kMostNumbers = 65536;

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

/// Digits and the text around them: "node10" is {"node", 10}.
std::pair<std::string_view, std::int64_t> numbered(std::string_view name) {
  const std::size_t last = name.find_last_not_of("0123456789");
  const std::size_t digits = last == std::string_view::npos ? 0 : last + 1;
  return {name.substr(0, digits), whole_number(name.substr(digits)).value_or(-1)};
}

}  // namespace

std::vector<std::string> lines_of(const std::filesystem::path& file) {
  std::vector<std::string> lines;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) lines.push_back(std::move(line));
  return lines;
}

std::string first_line(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::string line;
  if (!std::getline(stream, line)) return {};
  return std::string(trimmed(line));
}

std::optional<std::int64_t> whole_number(std::string_view text) {
  const int base = text.starts_with("0x") ? 16 : 10;
  if (base == 16) text.remove_prefix(2);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::int64_t> number_in(const std::filesystem::path& file) { return whole_number(first_line(file)); }

std::string field_in(const std::filesystem::path& file, std::string_view key) {
  for (const std::string& line : lines_of(file)) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || trimmed(std::string_view(line).substr(0, colon)) != key) continue;
    return std::string(trimmed(std::string_view(line).substr(colon + 1)));
  }
  return {};
}

std::optional<std::uint64_t> kilobytes_in(const std::filesystem::path& file, std::string_view key) {
  const std::string field = field_in(file, key);
  if (!field.ends_with(" kB")) return std::nullopt;
  const auto kilobytes = whole_number(trimmed(std::string_view(field).substr(0, field.size() - 3)));
  if (!kilobytes || *kilobytes < 0 || *kilobytes > (std::int64_t{1} << 52)) return std::nullopt;
  return static_cast<std::uint64_t>(*kilobytes) * 1024;
}

std::vector<std::string> entries_of(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    const auto left = numbered(a), right = numbered(b);
    return left != right ? left < right : a < b;
  });
  return names;
}

std::vector<std::int64_t> numbers_of_list(std::string_view list) {
  std::vector<std::int64_t> numbers;
  while (!list.empty()) {
    const std::string_view part = trimmed(list.substr(0, list.find(',')));
    list.remove_prefix(std::min(list.size(), list.find(',') == std::string_view::npos ? list.size() : list.find(',') + 1));
    const std::size_t dash = part.find('-');
    const auto first = whole_number(part.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : whole_number(part.substr(dash + 1));
    if (!first || !last || *first < 0 || *last < *first || *last >= kMostNumbers) return {};
    for (std::int64_t number = *first; number <= *last; ++number) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  return numbers;
}

std::string list_of_numbers(std::vector<std::int64_t> numbers) {
  std::sort(numbers.begin(), numbers.end());
  std::string list;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t end = i + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    if (!list.empty()) list += ',';
    list += end - i == 1 ? fmt::format("{}", numbers[i]) : fmt::format("{}-{}", numbers[i], numbers[end - 1]);
    i = end;
  }
  return list;
}

std::string byte_count_text(std::uint64_t bytes) {
  constexpr std::pair<std::uint64_t, std::string_view> kUnits[] = {{std::uint64_t{1} << 40, "TiB"},
                                                                   {std::uint64_t{1} << 30, "GiB"},
                                                                   {std::uint64_t{1} << 20, "MiB"},
                                                                   {std::uint64_t{1} << 10, "KiB"}};
  for (const auto& [unit, name] : kUnits) {
    if (bytes >= unit) return fmt::format("{:.4g} {}", static_cast<double>(bytes) / static_cast<double>(unit), name);
  }
  return fmt::format("{} bytes", bytes);
}

}  // namespace quern
