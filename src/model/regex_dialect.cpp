#include "model/regex_dialect.hpp"

#include <fmt/format.h>

#include <charconv>

#include "model/utf8.hpp"

namespace quern {
namespace {

constexpr std::string_view kSpaces = R"(\t-\r\x{85}\p{Z})";  // the inside of a set

bool hex_digit(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

}  // namespace

Result<std::string> to_pcre2(std::string_view pattern) {
  // \G: where the search begins, which is where the last match ended. A run of spaces is then tried once from its start,
  // not once from each of its spaces.
  if (pattern == R"(\s+$)") return fmt::format(R"((?:\G|(?<![{0}]))[{0}]+$)", kSpaces);
  const auto nested = [pattern] {
    return bad_input(fmt::format("the expression \"{}\" has a set inside a set, which is not supported", pattern));
  };
  std::string out;
  bool in_set = false;
  for (std::size_t at = 0; at < pattern.size(); ++at) {
    const char c = pattern[at];
    if (c == '\\' && at + 1 < pattern.size()) {
      const char next = pattern[++at];
      if (next == 's') {
        out += in_set ? std::string(kSpaces) : fmt::format("[{}]", kSpaces);
      } else if (next == 'S' && !in_set) {
        out += fmt::format("[^{}]", kSpaces);
      } else if (next == 'u') {
        const bool braced = at + 1 < pattern.size() && pattern[at + 1] == '{';
        std::size_t end = at + (braced ? 2 : 1);
        const std::size_t first = end;
        while (end < pattern.size() && hex_digit(pattern[end]) && end - first < (braced ? 6 : 4)) ++end;
        if (end == first || (braced && (end == pattern.size() || pattern[end] != '}'))) {
          return bad_input(fmt::format("the expression \"{}\" has a \\u without a code point at byte {}", pattern, at - 1));
        }
        out += fmt::format("\\x{{{}}}", pattern.substr(first, end - first));
        at = braced ? end : end - 1;
      } else {
        out += '\\';
        out += next;
      }
      continue;
    }
    if (in_set) {
      if (c == '&' && at + 1 < pattern.size() && pattern[at + 1] == '&') return nested();
      if (c == '[') {
        const std::size_t end = pattern.find(":]", at);
        if (at + 1 >= pattern.size() || pattern[at + 1] != ':' || end == std::string_view::npos) return nested();
        out += pattern.substr(at, end + 2 - at);  // a POSIX class
        at = end + 1;
        continue;
      }
      in_set = c != ']';
      out += c;
      continue;
    }
    out += c;
    if (c == '[') {
      in_set = true;
      // A bracket that stands first in the set is itself a member.
      if (at + 1 < pattern.size() && pattern[at + 1] == '^') out += pattern[++at];
      if (at + 1 < pattern.size() && pattern[at + 1] == ']') out += pattern[++at];
    }
  }
  return out;
}

std::string from_pcre2(std::string_view pattern) {
  if (pattern == fmt::format(R"((?:\G|(?<![{0}]))[{0}]+$)", kSpaces)) return R"(\s+$)";
  const std::string any = fmt::format("[{}]", kSpaces), none = fmt::format("[^{}]", kSpaces);
  std::string out;
  while (!pattern.empty()) {
    const std::size_t end = pattern.find('}');
    if (pattern.starts_with(any)) {
      out += R"(\s)";
      pattern.remove_prefix(any.size());
    } else if (pattern.starts_with(none)) {
      out += R"(\S)";
      pattern.remove_prefix(none.size());
    } else if (pattern.starts_with(kSpaces)) {
      out += R"(\s)";
      pattern.remove_prefix(kSpaces.size());
    } else if (pattern.starts_with(R"(\x{)") && end != std::string_view::npos) {
      // The character itself, which every dialect reads; in ASCII it could mean something else.
      std::int32_t code_point = 0;
      const auto [stop, wrong] = std::from_chars(pattern.data() + 3, pattern.data() + end, code_point, 16);
      if (wrong == std::errc() && stop == pattern.data() + end && code_point >= 0x80 && code_point <= 0x10FFFF) {
        append_utf8(out, code_point);
      } else {
        out += pattern.substr(0, end + 1);
      }
      pattern.remove_prefix(end + 1);
    } else {
      const std::size_t taken = pattern[0] == '\\' && pattern.size() > 1 ? 2 : 1;
      out += pattern.substr(0, taken);
      pattern.remove_prefix(taken);
    }
  }
  return out;
}

std::string literal_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool letter = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!letter && static_cast<unsigned char>(c) < 0x80) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace quern
