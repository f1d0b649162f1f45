#include "infer/jinja_text.hpp"

#include <algorithm>
#include <cstring>

#include "model/utf8.hpp"

namespace quern::jinja {

std::size_t count_characters(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

std::size_t character_bytes(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const std::size_t bytes = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return std::min(bytes, text.size() - at);
}

std::size_t byte_offset(std::string_view text, std::size_t character) {
  std::size_t at = 0;
  for (; character > 0 && at < text.size(); --character) at += character_bytes(text, at);
  return at;
}

std::int32_t code_point_at(std::string_view text, std::size_t at) { return utf8_step(text, at).code_point; }

std::size_t find_text(std::string_view text, std::string_view part, std::size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (part.empty()) return from;
  const void* const found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return found == nullptr ? std::string_view::npos : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

std::size_t rfind_text(std::string_view text, std::string_view part, std::size_t end) {
  text = text.substr(0, end);
  if (part.empty()) return text.size();
  // Linear search has no reverse in the C library; mirrored text does.
  std::string mirrored(text.rbegin(), text.rend());
  const std::string part_mirrored(part.rbegin(), part.rend());
  const std::size_t found = find_text(mirrored, part_mirrored, 0);
  return found == std::string_view::npos ? found : text.size() - found - part.size();
}

bool is_space(std::int32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string_view strip(std::string_view text, const std::string_view* set, bool left, bool right) {
  const auto drops = [&](std::string_view character) {
    if (set == nullptr) return is_space(code_point_at(character, 0));
    return find_text(*set, character, 0) != std::string_view::npos;
  };
  while (left && !text.empty()) {
    const std::size_t bytes = character_bytes(text, 0);
    if (!drops(text.substr(0, bytes))) break;
    text.remove_prefix(bytes);
  }
  while (right && !text.empty()) {
    const std::size_t at = utf8_boundary_before(text, text.size() - 1);
    if (!drops(text.substr(at))) break;
    text = text.substr(0, at);
  }
  return text;
}

std::vector<std::string_view> split_words(std::string_view text, std::int64_t limit, bool from_right) {
  std::vector<std::string_view> words;
  text = strip(text, nullptr, !from_right, from_right);
  while (!text.empty()) {
    if (limit >= 0 && static_cast<std::int64_t>(words.size()) == limit) {
      words.push_back(text);
      break;
    }
    if (from_right) {
      std::size_t start = text.size();
      while (start > 0) {
        const std::size_t at = utf8_boundary_before(text, start - 1);
        if (is_space(code_point_at(text, at))) break;
        start = at;
      }
      words.push_back(text.substr(start));
      text = strip(text.substr(0, start), nullptr, false, true);
    } else {
      std::size_t end = 0;
      while (end < text.size() && !is_space(code_point_at(text, end))) end += character_bytes(text, end);
      words.push_back(text.substr(0, end));
      text = strip(text.substr(end), nullptr, true, false);
    }
  }
  if (from_right) std::reverse(words.begin(), words.end());
  return words;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  std::size_t start = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::int32_t c = code_point_at(text, at);
    std::size_t end = at + character_bytes(text, at);
    const bool ends_line = (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (c == '\r' && end < text.size() && text[end] == '\n') ++end;
    if (ends_line) {
      lines.push_back(text.substr(start, (keep_ends ? end : at) - start));
      start = end;
    }
    at = end;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

std::string replace_text(std::string_view text, std::string_view from, std::string_view to, std::int64_t count) {
  std::string out;
  if (from.empty()) {
    std::size_t at = 0;
    for (; count != 0; --count) {
      out += to;
      if (at >= text.size()) return out;
      const std::size_t bytes = character_bytes(text, at);
      out += text.substr(at, bytes);
      at += bytes;
    }
    return out += text.substr(at);
  }
  std::size_t at = 0;
  for (; count != 0; --count) {
    const std::size_t found = find_text(text, from, at);
    if (found == std::string_view::npos) break;
    out.append(text.substr(at, found - at)).append(to);
    at = found + from.size();
  }
  return out += text.substr(at);
}

namespace {

void append_upper(std::string& out, std::int32_t c) {
  switch (c) {  // the characters whose upper case is longer, of those that texts contain
    case 0xDF:
      out += "SS";
      return;
    case 0x149:
      out += "\xCA\xBCN";
      return;
    case 0x1F0:
      out += "J\xCC\x8C";
      return;
    case 0x587:
      out += "\xD4\xB5\xD5\x92";
      return;
    case 0xFB00:
      out += "FF";
      return;
    case 0xFB01:
      out += "FI";
      return;
    case 0xFB02:
      out += "FL";
      return;
    case 0xFB03:
      out += "FFI";
      return;
    case 0xFB04:
      out += "FFL";
      return;
    case 0xFB05:
    case 0xFB06:
      out += "ST";
      return;
    default:
      append_utf8(out, upper_of(c));
  }
}

bool is_cased(std::int32_t c) { return upper_of(c) != c || lower_of(c) != c || c == 0xDF; }

/// A final sigma has its own form: behind a letter and not before one.
bool is_final_sigma(std::string_view text, std::size_t at, bool behind_letter) {
  const std::size_t next = at + character_bytes(text, at);
  return behind_letter && (next >= text.size() || !is_cased(code_point_at(text, next)));
}

enum class Form { upper, lower };

/// Maps each character to the form that `choose(code point, behind a letter)` says.
template <class Choose>
std::string map_case(std::string_view text, Choose choose) {
  std::string out;
  out.reserve(text.size());
  bool behind_letter = false;
  for (std::size_t at = 0; at < text.size(); at += character_bytes(text, at)) {
    const std::int32_t c = code_point_at(text, at);
    if (choose(c, behind_letter, at) == Form::upper) {
      append_upper(out, c);
    } else if (c == 0x3A3) {
      append_utf8(out, is_final_sigma(text, at, behind_letter) ? 0x3C2 : 0x3C3);
    } else if (c == 0x130) {
      out += "i\xCC\x87";
    } else {
      append_utf8(out, lower_of(c));
    }
    behind_letter = is_cased(c);
  }
  return out;
}

}  // namespace

std::string upper(std::string_view text) {
  return map_case(text, [](std::int32_t, bool, std::size_t) { return Form::upper; });
}
std::string lower(std::string_view text) {
  return map_case(text, [](std::int32_t, bool, std::size_t) { return Form::lower; });
}
std::string capitalize(std::string_view text) {
  return map_case(text, [](std::int32_t, bool, std::size_t at) { return at == 0 ? Form::upper : Form::lower; });
}
std::string title(std::string_view text) {
  return map_case(text, [](std::int32_t, bool behind, std::size_t) { return behind ? Form::lower : Form::upper; });
}
std::string swap_case(std::string_view text) {
  return map_case(text, [](std::int32_t c, bool, std::size_t) { return lower_of(c) != c ? Form::lower : Form::upper; });
}

bool is_printable(std::int32_t c) {
  if (c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD) return false;
  if (c == ' ') return true;
  if (is_space(c) || (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) || (c >= 0x2060 && c <= 0x206F))
    return false;
  if (c == 0x61C || c == 0x180E || c == 0xFEFF || (c >= 0xFFF0 && c <= 0xFFFB) || (c & 0xFFFE) == 0xFFFE) return false;
  return !(c >= 0xE000 && c <= 0xF8FF) && c < 0xE0000;
}

}  // namespace quern::jinja
