#include "model/utf8.hpp"

#include <algorithm>
#include <cstring>

namespace quern {
namespace {

std::uint8_t byte_at(std::string_view text, std::size_t at) { return static_cast<std::uint8_t>(text[at]); }

// A lead byte's length (0: cannot start a character of several bytes) and the range of its second byte, which is where
// overlong forms, surrogates and too large values are ruled out (Unicode standard, table 3-7).
struct Lead {
  std::size_t length = 0;
  std::uint8_t second_low = 0x80;
  std::uint8_t second_high = 0xBF;
};

Lead lead_of(std::uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {};
}

bool continues(const Lead& lead, std::size_t index, std::uint8_t byte) {
  return index == 1 ? byte >= lead.second_low && byte <= lead.second_high : (byte & 0xC0) == 0x80;
}

}  // namespace

Utf8Step utf8_step(std::string_view text, std::size_t at) {
  const std::uint8_t first = byte_at(text, at);
  if (first < 0x80) return {first, 1};
  const Lead lead = lead_of(first);
  if (lead.length == 0 || text.size() - at < lead.length) return {-1, 1};
  std::int32_t code_point = first & (0x7F >> lead.length);
  for (std::size_t i = 1; i < lead.length; ++i) {
    const std::uint8_t byte = byte_at(text, at + i);
    if (!continues(lead, i, byte)) return {-1, 1};
    code_point = code_point << 6 | (byte & 0x3F);
  }
  return {code_point, lead.length};
}

std::size_t find_invalid_utf8(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    // Eight ASCII bytes at a time: the common case.
    std::uint64_t word = 0;
    if (text.size() - at >= sizeof word) {
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & 0x8080808080808080U) == 0) {
        at += sizeof word;
        continue;
      }
    }
    const Utf8Step step = utf8_step(text, at);
    if (step.code_point < 0) return at;
    at += step.bytes;
  }
  return std::string_view::npos;
}

void append_utf8(std::string& text, std::int32_t code_point) {
  const auto add = [&text](std::int32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    add(code_point);
  } else if (code_point < 0x800) {
    add(0xC0 | code_point >> 6);
    add(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    add(0xE0 | code_point >> 12);
    add(0x80 | (code_point >> 6 & 0x3F));
    add(0x80 | (code_point & 0x3F));
  } else {
    add(0xF0 | code_point >> 18);
    add(0x80 | (code_point >> 12 & 0x3F));
    add(0x80 | (code_point >> 6 & 0x3F));
    add(0x80 | (code_point & 0x3F));
  }
}

std::size_t complete_utf8_prefix(std::string_view text) {
  // Only the last three bytes can begin a character that is still open.
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const std::size_t at = text.size() - back;
    const Lead lead = lead_of(byte_at(text, at));
    if (lead.length <= back) continue;
    bool open = true;
    for (std::size_t i = 1; i < back; ++i) open = open && continues(lead, i, byte_at(text, at + i));
    if (open) return at;
  }
  return text.size();
}

std::size_t utf8_boundary_before(std::string_view text, std::size_t at) {
  for (std::size_t back = 0; back <= 3 && back <= at; ++back) {
    const std::size_t start = at - back;
    if (start == text.size() || (byte_at(text, start) & 0xC0) != 0x80) return start;
  }
  return at;  // no character is that long: the bytes are not UTF-8
}

}  // namespace quern
