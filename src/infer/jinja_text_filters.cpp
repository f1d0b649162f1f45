// Filters of text.
#include <algorithm>

#include "infer/jinja_format.hpp"
#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_text.hpp"

namespace quern::jinja {

namespace {

std::string_view text_of(Interpreter& run, const Value& input) {
  const std::string_view text = run.text(input);
  run.heap().work(text.size() / 4 + 1);  // most filters look at each character
  return text;
}

Value trim(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "trim", {"chars"});
  const std::string_view text = text_of(run, input);
  if (bound[0] == nullptr || bound.at(0).is(Kind::none)) return Value::string(strip(text));
  const std::string_view set = bound.string(0);
  run.heap().work_bytes(text.size() * (set.size() / 16 + 1));
  return Value::string(strip(text, &set));
}

template <std::string (*mapping)(std::string_view)>
Value mapped(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "the filter", {});
  return run.heap().make_string(mapping(text_of(run, input)));
}

/// Jinja's title: words start behind white space, hyphens and opening brackets, so that "don't" stays one word.
Value title_filter(Interpreter& run, const Value& input, const Call&) {
  const std::string_view text = text_of(run, input);
  Builder out(run.heap());
  const auto splits = [&](std::size_t at) {
    return is_space(code_point_at(text, at)) || std::string_view("-({[<").find(text[at]) != std::string_view::npos;
  };
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at;
    const bool is_separator = splits(at);
    while (end < text.size() && splits(end) == is_separator) end += character_bytes(text, end);
    const std::size_t first = at + character_bytes(text, at);
    out.add(upper(text.substr(at, first - at))).add(lower(text.substr(first, end - first)));
    at = end;
  }
  return out.value();
}

Value string_filter(Interpreter& run, const Value& input, const Call&) { return Value::string(run.text(input)); }

Value replace(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "replace", {"old", "new", "count"}, 2);
  const std::int64_t count = bound[2] != nullptr && bound.at(2).is(Kind::none) ? -1 : bound.integer(2, -1);
  return replaced(run.heap(), text_of(run, input), run.text(bound.at(0)), run.text(bound.at(1)), count);
}

Value indent(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "indent", {"width", "first", "blank"});
  if (!input.is(Kind::string)) throw Failure{"indent needs a string, found '" + std::string(type_word(input.kind())) + "'"};
  Builder margin(run.heap());
  if (bound[0] != nullptr && bound.at(0).is(Kind::string)) {
    margin.add(bound.string(0));
  } else {
    margin.add_repeated(" ", bound.integer(0, 4));
  }
  Builder ended(run.heap());
  ended.add(text_of(run, input)).add('\n');
  Builder out(run.heap());
  bool is_first = true;
  for (const std::string_view line : split_lines(ended.text(), false)) {
    if (!is_first) out.add('\n');
    if (is_first ? bound.flag(1) : bound.flag(2) || !line.empty()) out.add(margin.text());
    out.add(line);
    is_first = false;
  }
  return out.value();
}

Value escape(Interpreter& run, const Value& input, const Call&) {
  Builder out(run.heap());
  for (const char c : text_of(run, input)) {
    switch (c) {
      case '&':
        out.add("&amp;");
        break;
      case '<':
        out.add("&lt;");
        break;
      case '>':
        out.add("&gt;");
        break;
      case '\'':
        out.add("&#39;");
        break;
      case '"':
        out.add("&#34;");
        break;
      default:
        out.add(c);
    }
  }
  return out.value();
}

/// \w: beyond ASCII everything but white space and the blocks of punctuation, symbols and emoji.
bool is_word_character(std::int32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  const bool is_symbol = (c < 0xC0 && c != 0xAA && c != 0xB5 && c != 0xBA) || c == 0xD7 || c == 0xF7 ||
                         (c >= 0x2000 && c < 0x2C00) || (c >= 0x3000 && c < 0x3005) || (c >= 0x3008 && c < 0x3021) ||
                         (c >= 0xFE00 && c < 0xFE70) || (c >= 0xFF00 && c < 0xFF10) || c >= 0xE0000 ||
                         (c >= 0x1F000 && c < 0x1FC00);
  return !is_symbol && !is_space(c);
}

Value wordcount(Interpreter& run, const Value& input, const Call&) {
  const std::string_view text = text_of(run, input);
  std::int64_t words = 0;
  bool inside = false;
  for (std::size_t at = 0; at < text.size(); at += character_bytes(text, at)) {
    const bool is_word = is_word_character(code_point_at(text, at));
    words += is_word && !inside ? 1 : 0;
    inside = is_word;
  }
  return Value::integer(words);
}

Value truncate(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "truncate", {"length", "killwords", "end", "leeway"});
  const std::string_view text = text_of(run, input), end = bound.string(2, "...");
  const std::int64_t limit = bound.integer(0, 255), leeway = bound[3] == nullptr ? 5 : bound.integer(3);
  const auto end_size = static_cast<std::int64_t>(count_characters(end));
  if (limit < end_size || leeway < 0) throw Failure{"truncate needs a length of at least that of its end, and leeway >= 0"};
  if (static_cast<std::int64_t>(count_characters(text)) - limit <= leeway) return Value::string(text);
  std::string_view head = text.substr(0, byte_offset(text, static_cast<std::size_t>(limit - end_size)));
  const std::size_t space = head.rfind(' ');
  if (!bound.flag(1) && space != std::string_view::npos) head = head.substr(0, space);
  Builder out(run.heap());
  out.add(head).add(end);
  return out.value();
}

Value center(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "center", {"width"});
  return justified(run.heap(), text_of(run, input), bound.integer(0, 80), " ", '^');
}

Value format(Interpreter& run, const Value& input, const Call& call) {
  if (!call.positional.empty() && !call.named.empty()) {
    throw Failure{"can't handle positional and keyword arguments at the same time"};
  }
  if (!call.named.empty()) {
    Dict* const named = run.heap().make_dict();
    for (const auto& [name, value] : call.named) named->set(Value::string(name), value);
    return format_percent(run.heap(), text_of(run, input), Value::dict(named));
  }
  Sequence* const all = run.heap().make_sequence();
  all->items = call.positional;
  return format_percent(run.heap(), text_of(run, input), Value::sequence(Kind::tuple, all));
}

Value urlencode(Interpreter& run, const Value& input, const Call&) {
  Builder out(run.heap());
  for (const char c : text_of(run, input)) {
    const bool is_plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                          std::string_view("_.-~/").find(c) != std::string_view::npos;
    if (is_plain) {
      out.add(c);
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out.add('%').add("0123456789ABCDEF"[byte / 16]).add("0123456789ABCDEF"[byte % 16]);
    }
  }
  return out.value();
}

constexpr Named<FilterFunction> kFilters[] = {
    {"trim", trim},
    {"upper", mapped<upper>},
    {"lower", mapped<lower>},
    {"capitalize", mapped<capitalize>},
    {"title", title_filter},
    {"string", string_filter},
    {"safe", string_filter},
    {"replace", replace},
    {"indent", indent},
    {"escape", escape},
    {"e", escape},
    {"forceescape", escape},
    {"wordcount", wordcount},
    {"truncate", truncate},
    {"center", center},
    {"format", format},
    {"urlencode", urlencode},
};

}  // namespace

std::span<const Named<FilterFunction>> text_filters() { return kFilters; }

}  // namespace quern::jinja
