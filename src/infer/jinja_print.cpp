#include "infer/jinja_print.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_text.hpp"

namespace quern::jinja {

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::array<char, 40> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer.data(), static_cast<std::size_t>(end - buffer.data()));
  const std::size_t e = text.find('e');
  int exponent = 0;
  const std::size_t exponent_start = e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(text.data() + exponent_start, text.data() + text.size(), exponent);
  if (exponent < -4 || exponent >= 16) return std::string(text);
  const bool is_negative = text[0] == '-';
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  std::string out = is_negative ? "-" : "";
  if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

namespace {

std::string hexadecimal(std::int32_t number, int digits) {
  std::string out(static_cast<std::size_t>(digits), '0');
  for (std::size_t i = out.size(); i-- > 0; number /= 16) out[i] = "0123456789abcdef"[number % 16];
  return out;
}

void append_string_repr(Builder& out, std::string_view text) {
  const char quote = text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos ? '"' : '\'';
  out.add(quote);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = character_bytes(text, at);
    const std::int32_t c = code_point_at(text, at);
    if (c == '\\' || c == quote) {
      out.add('\\').add(text.substr(at, 1));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out.add(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
    } else if (is_printable(c)) {
      out.add(text.substr(at, bytes));
    } else if (c < 0x100) {
      out.add("\\x" + hexadecimal(c, 2));
    } else {
      out.add(c < 0x10000 ? "\\u" + hexadecimal(c, 4) : "\\U" + hexadecimal(c, 8));
    }
    at += bytes;
  }
  out.add(quote);
}

void append_items(Builder& out, const Sequence& sequence, std::string_view open, std::string_view close, int depth) {
  out.add(open);
  for (std::size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) out.add(", ");
    append_repr(out, sequence.items[i], depth + 1);
  }
  out.add(close);
}

void append_dict(Builder& out, const Dict& dict, int depth) {
  out.add('{');
  bool is_first = true;
  for (const auto& [key, value] : dict.entries()) {
    if (!is_first) out.add(", ");
    is_first = false;
    append_repr(out, key, depth + 1);
    out.add(": ");
    append_repr(out, value, depth + 1);
  }
  out.add('}');
}

void append_range(Builder& out, const Sequence& range) {
  out.add("range(" + std::to_string(range.start) + ", " + std::to_string(range.stop));
  if (range.step != 1) out.add(", " + std::to_string(range.step));
  out.add(')');
}

}  // namespace

void append_repr(Builder& out, const Value& value, int depth) {
  if (depth > kValueDepth) throw Failure{"values are nested too deeply to be printed"};
  switch (value.kind()) {
    case Kind::undefined:
      out.add("Undefined");
      break;
    case Kind::none:
      out.add("None");
      break;
    case Kind::boolean:
      out.add(value.as_integer() != 0 ? "True" : "False");
      break;
    case Kind::integer:
      out.add(std::to_string(value.as_integer()));
      break;
    case Kind::floating:
      out.add(float_text(value.as_double()));
      break;
    case Kind::string:
      append_string_repr(out, value.as_string());
      break;
    case Kind::list:
      append_items(out, *value.as_sequence(), "[", "]", depth);
      break;
    case Kind::tuple:
      append_items(out, *value.as_sequence(), "(", value.as_sequence()->items.size() == 1 ? ",)" : ")", depth);
      break;
    case Kind::view:
      out.add(value.as_sequence()->word);
      append_items(out, *value.as_sequence(), "([", "])", depth);
      break;
    case Kind::range:
      append_range(out, *value.as_sequence());
      break;
    case Kind::dict:
      append_dict(out, *value.as_dict(), depth);
      break;
    case Kind::space:
      out.add("<Namespace ");
      append_dict(out, *value.as_dict(), depth);
      out.add('>');
      break;
    case Kind::iterator:
      out.add("<generator object>");
      break;
    case Kind::function:
      out.add(function_text(*value.as_function()));
      break;
    case Kind::loop:
      out.add(loop_text(*value.as_loop()));
      break;
    case Kind::cycler:
      out.add("<Cycler>");
      break;
    case Kind::joiner:
      out.add("<Joiner>");
      break;
  }
}

std::string_view to_text(Heap& heap, const Value& value) {
  if (value.is(Kind::string)) return value.as_string();
  if (value.is(Kind::undefined)) return {};
  Builder out(heap);
  append_repr(out, value);
  return heap.keep(out.text());
}

namespace {

void append_json_string(Builder& out, std::string_view text, bool ensure_ascii) {
  out.add('"');
  std::size_t plain = 0;  // start of the characters not yet copied
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = character_bytes(text, at);
    const std::int32_t c = code_point_at(text, at);
    std::string escaped;
    static constexpr std::string_view kLetters = "\"\\\n\r\t\b\f";
    static constexpr std::string_view kEscapes = "\"\\nrtbf";
    if (const std::size_t letter = c < 128 ? kLetters.find(static_cast<char>(c)) : std::string_view::npos;
        letter != std::string_view::npos) {
      escaped = {'\\', kEscapes[letter]};
    } else if (c < 0x20) {
      escaped = "\\u" + hexadecimal(c, 4);
    } else if (ensure_ascii && c >= 0x10000) {
      escaped = "\\u" + hexadecimal(0xD800 + ((c - 0x10000) >> 10), 4) + "\\u" + hexadecimal(0xDC00 + (c & 0x3FF), 4);
    } else if (ensure_ascii && c >= 0x7F) {
      escaped = "\\u" + hexadecimal(c, 4);
    }
    if (!escaped.empty()) {
      out.add(text.substr(plain, at - plain)).add(escaped);
      plain = at + bytes;
    }
    at += bytes;
  }
  out.add(text.substr(plain)).add('"');
}

std::string json_number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return float_text(value);
}

/// Numbers, booleans and None are keys under their JSON names.
std::string json_key(const Value& key) {
  switch (key.kind()) {
    case Kind::string:
      return std::string(key.as_string());
    case Kind::none:
      return "null";
    case Kind::boolean:
      return key.as_integer() != 0 ? "true" : "false";
    case Kind::integer:
      return std::to_string(key.as_integer());
    case Kind::floating:
      return json_number(key.as_double());
    default:
      throw Failure{"keys must be str, int, float, bool or None, not " + std::string(type_word(key.kind()))};
  }
}

void new_line(Builder& out, const JsonOptions& options, int depth) {
  if (!options.indent) return;
  out.add('\n').add_repeated(*options.indent, depth);
}

void append_json_list(Builder& out, const Values& items, const JsonOptions& options, int depth) {
  if (items.empty()) {
    out.add("[]");
    return;
  }
  out.add('[');
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.add(options.item_separator ? *options.item_separator : options.indent ? "," : ", ");
    new_line(out, options, depth + 1);
    append_json(out, items[i], options, depth + 1);
  }
  new_line(out, options, depth);
  out.add(']');
}

void append_json_dict(Builder& out, const Dict& dict, const JsonOptions& options, int depth) {
  if (dict.entries().empty()) {
    out.add("{}");
    return;
  }
  std::vector<const std::pair<Value, Value>*> entries;
  for (const auto& entry : dict.entries()) entries.push_back(&entry);
  if (options.sort_keys) {
    std::stable_sort(entries.begin(), entries.end(),
                     [&](const auto* a, const auto* b) { return compare(out.heap(), a->first, b->first) < 0; });
  }
  out.add('{');
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) out.add(options.item_separator ? *options.item_separator : options.indent ? "," : ", ");
    new_line(out, options, depth + 1);
    append_json_string(out, json_key(entries[i]->first), options.ensure_ascii);
    out.add(options.key_separator ? *options.key_separator : ": ");
    append_json(out, entries[i]->second, options, depth + 1);
  }
  new_line(out, options, depth);
  out.add('}');
}

}  // namespace

void append_json(Builder& out, const Value& value, const JsonOptions& options, int depth) {
  if (depth > kValueDepth) throw Failure{"values are nested too deeply to be written as JSON"};
  switch (value.kind()) {
    case Kind::none:
      out.add("null");
      break;
    case Kind::boolean:
      out.add(value.as_integer() != 0 ? "true" : "false");
      break;
    case Kind::integer:
      out.add(std::to_string(value.as_integer()));
      break;
    case Kind::floating:
      out.add(json_number(value.as_double()));
      break;
    case Kind::string:
      append_json_string(out, value.as_string(), options.ensure_ascii);
      break;
    case Kind::list:
    case Kind::tuple:
      append_json_list(out, value.as_sequence()->items, options, depth);
      break;
    case Kind::dict:
      append_json_dict(out, *value.as_dict(), options, depth);
      break;
    default:
      throw Failure{"Object of type " + std::string(type_word(value.kind())) + " is not JSON serializable"};
  }
}

}  // namespace quern::jinja
