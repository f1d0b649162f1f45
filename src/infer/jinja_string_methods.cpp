// Methods of text, as Python's str has them.
#include <algorithm>

#include "infer/jinja_format.hpp"
#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_operators.hpp"
#include "infer/jinja_text.hpp"

namespace quern::jinja {

namespace {

std::string_view text_of(Interpreter& run, const Function& self) {
  run.heap().work_bytes(self.self.as_string().size() * 4);
  return self.self.as_string();
}

Value list_of(Interpreter& run, const std::vector<std::string_view>& parts) {
  Sequence* const made = run.heap().make_sequence(parts.size());
  run.heap().work(parts.size());
  for (const std::string_view part : parts) made->items.push_back(Value::string(part));
  return Value::sequence(Kind::list, made);
}

Value tuple_of(Interpreter& run, std::string_view first, std::string_view second, std::string_view third) {
  Sequence* const made = run.heap().make_sequence(3);
  made->items = {Value::string(first), Value::string(second), Value::string(third)};
  return Value::sequence(Kind::tuple, made);
}

template <std::string (*mapping)(std::string_view)>
Value mapped(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {});
  run.heap().work(self.self.as_string().size() / 2);  // characters are mapped one by one
  return run.heap().make_string(mapping(text_of(run, self)));
}

template <bool left, bool right>
Value stripped(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"chars"});
  const std::string_view text = text_of(run, self);
  if (bound[0] == nullptr || bound.at(0).is(Kind::none)) return Value::string(strip(text, nullptr, left, right));
  const std::string_view set = bound.string(0);
  run.heap().work_bytes(text.size() * (set.size() / 16 + 1));
  return Value::string(strip(text, &set, left, right));
}

template <bool from_right>
Value split(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"sep", "maxsplit"});
  std::string_view text = text_of(run, self);
  const std::int64_t limit = bound.integer(1, -1);
  if (bound[0] == nullptr || bound.at(0).is(Kind::none)) return list_of(run, split_words(text, limit, from_right));
  const std::string_view separator = bound.string(0);
  if (separator.empty()) throw Failure{"empty separator"};
  std::vector<std::string_view> parts;
  // From the right the places are those that a search of mirrored text finds; searching each anew would be quadratic.
  const std::string mirrored = from_right ? std::string(text.rbegin(), text.rend()) : std::string();
  const std::string wanted = from_right ? std::string(separator.rbegin(), separator.rend()) : std::string(separator);
  const std::string_view searched = from_right ? std::string_view(mirrored) : text;
  std::size_t at = 0;
  while (limit < 0 || static_cast<std::int64_t>(parts.size()) < limit) {
    const std::size_t found = find_text(searched, wanted, at);
    if (found == std::string_view::npos) break;
    parts.push_back(from_right ? text.substr(text.size() - found, found - at) : text.substr(at, found - at));
    at = found + wanted.size();
  }
  parts.push_back(from_right ? text.substr(0, text.size() - at) : text.substr(at));
  if (from_right) std::reverse(parts.begin(), parts.end());
  return list_of(run, parts);
}

Value split_into_lines(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"keepends"});
  return list_of(run, split_lines(text_of(run, self), bound.flag(0)));
}

template <bool from_right>
Value partition(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"sep"}, 1);
  const std::string_view text = text_of(run, self), separator = bound.string(0);
  if (separator.empty()) throw Failure{"empty separator"};
  const std::size_t at = from_right ? rfind_text(text, separator, text.size()) : find_text(text, separator, 0);
  if (at == std::string_view::npos) return from_right ? tuple_of(run, {}, {}, text) : tuple_of(run, text, {}, {});
  return tuple_of(run, text.substr(0, at), separator, text.substr(at + separator.size()));
}

/// The part of the text between two character indices, and where it starts in bytes.
struct Window {
  std::string_view text;
  std::size_t offset = 0;
  bool is_valid = true;  ///< the start does not lie behind the end
};

Window window_of(Interpreter& run, const Function& self, const Bound& bound) {
  const std::string_view text = text_of(run, self);
  const auto is_given = [&](std::size_t i) { return bound[i] != nullptr && !bound.at(i).is(Kind::none); };
  if (!is_given(1) && !is_given(2)) return {text, 0, true};
  const auto characters = static_cast<std::int64_t>(count_characters(text));
  const auto placed = [&](std::int64_t i) {
    return i < 0 ? std::max<std::int64_t>(i < -characters ? 0 : i + characters, 0) : i;
  };
  const std::int64_t start = is_given(1) ? placed(bound.integer(1)) : 0;
  const std::int64_t stop = is_given(2) ? std::min(placed(bound.integer(2)), characters) : characters;
  if (start > stop) return {{}, 0, false};
  const std::size_t first = byte_offset(text, static_cast<std::size_t>(start));
  return {text.substr(first, byte_offset(text.substr(first), static_cast<std::size_t>(stop - start))), first, true};
}

template <bool at_end>
Value has_affix(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"prefix", "start", "end"}, 1);
  const Window window = window_of(run, self, bound);
  const auto matches = [&](const Value& affix) {
    if (!affix.is(Kind::string)) {
      if (affix.is(Kind::undefined)) throw Failure{missing_sentence(affix)};
      throw Failure{std::string(self.name) + " first arg must be str or a tuple of str, not " +
                    std::string(type_word(affix.kind()))};
    }
    const std::string_view part = affix.as_string();
    return window.is_valid && (at_end ? window.text.ends_with(part) : window.text.starts_with(part));
  };
  if (!bound.at(0).is(Kind::tuple)) return Value::boolean(matches(bound.at(0)));
  const Values& any = bound.at(0).as_sequence()->items;
  return Value::boolean(std::any_of(any.begin(), any.end(), matches));
}

template <bool at_end>
Value without_affix(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"affix"}, 1);
  std::string_view text = text_of(run, self);
  const std::string_view affix = bound.string(0);
  if (at_end && text.ends_with(affix)) text.remove_suffix(affix.size());
  if (!at_end && text.starts_with(affix)) text.remove_prefix(affix.size());
  return Value::string(text);
}

template <bool from_right, bool must_exist>
Value find(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"sub", "start", "end"}, 1);
  const Window window = window_of(run, self, bound);
  const std::string_view part = bound.string(0);
  std::size_t at = std::string_view::npos;
  if (window.is_valid) at = from_right ? rfind_text(window.text, part, window.text.size()) : find_text(window.text, part, 0);
  if (at == std::string_view::npos) {
    if (must_exist) throw Failure{"substring not found"};
    return Value::integer(-1);
  }
  return Value::integer(static_cast<std::int64_t>(count_characters(text_of(run, self).substr(0, window.offset + at))));
}

std::int64_t occurrences(std::string_view text, std::string_view part) {
  if (part.empty()) return static_cast<std::int64_t>(count_characters(text)) + 1;
  std::int64_t count = 0;
  for (std::size_t at = 0; (at = find_text(text, part, at)) != std::string_view::npos; at += part.size()) ++count;
  return count;
}

Value count(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"sub", "start", "end"}, 1);
  const Window window = window_of(run, self, bound);
  return Value::integer(window.is_valid ? occurrences(window.text, bound.string(0)) : 0);
}

Value replace(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"old", "new", "count"}, 2);
  return replaced(run.heap(), text_of(run, self), bound.string(0), bound.string(1), bound.integer(2, -1));
}

Value join(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"iterable"}, 1);
  Builder out(run.heap());
  const Values& items = elements(run.heap(), bound.at(0))->items;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is(Kind::string)) {
      throw Failure{"sequence item " + std::to_string(i) + ": expected str instance, " +
                    std::string(type_word(items[i].kind())) + " found"};
    }
    if (i > 0) out.add(self.self.as_string());
    out.add(items[i].as_string());
  }
  return out.value();
}

/// str.format: fields name positional or named arguments, and parts of them.
Value format(Interpreter& run, const Function& self, const Call& call) {
  std::size_t next = 0;
  return format_braces(run.heap(), self.self.as_string(), [&](std::string_view field) {
    std::size_t end = std::min(field.find_first_of(".["), field.size());
    const std::string_view head = field.substr(0, end);
    Value value;
    if (head.empty() || head.find_first_not_of("0123456789") == std::string_view::npos) {
      if (head.size() > 6) throw Failure{"Replacement index out of range for positional args tuple"};
      const std::size_t index = head.empty() ? next++ : std::stoul(std::string(head));
      if (index >= call.positional.size()) throw Failure{"Replacement index out of range for positional args tuple"};
      value = call.positional[index];
    } else {
      const auto found = std::find_if(call.named.begin(), call.named.end(), [&](const auto& n) { return n.first == head; });
      if (found == call.named.end()) throw Failure{"the format names '" + std::string(head) + "', which is not given"};
      value = found->second;
    }
    while (end < field.size()) {
      const bool is_subscript = field[end] == '[';
      const std::size_t close =
          std::min(is_subscript ? field.find(']', end) : field.find_first_of(".[", end + 1), field.size());
      const std::string_view name = field.substr(end + 1, close - end - 1);
      const bool is_index = is_subscript && !name.empty() && name.size() < 10 &&
                            name.find_first_not_of("0123456789") == std::string_view::npos;
      value = !is_subscript
                  ? run.attribute(value, name)
                  : run.subscript(value, is_index ? Value::integer(std::stol(std::string(name))) : Value::string(name));
      end = is_subscript ? close + 1 : close;
    }
    return value;
  });
}

enum class Side { left, right, both };

template <Side side>
Value justify(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"width", "fillchar"}, 1);
  return justified(run.heap(), text_of(run, self), bound.integer(0), bound.string(1, " "),
                   side == Side::left    ? '<'
                   : side == Side::right ? '>'
                                         : '^');
}

Value zfill(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"width"}, 1);
  const std::string_view text = text_of(run, self);
  const bool has_sign = text.starts_with('+') || text.starts_with('-');
  Builder out(run.heap());
  out.add(text.substr(0, has_sign ? 1 : 0));
  out.add_repeated("0", bound.integer(0) < 0 ? 0 : bound.integer(0) - static_cast<std::int64_t>(count_characters(text)));
  out.add(text.substr(has_sign ? 1 : 0));
  return out.value();
}

Value expand_tabs(Interpreter& run, const Function& self, const Call& call) {
  const Bound bound(call, self.name, {"tabsize"});
  const std::int64_t size = bound.integer(0, 8);
  const std::string_view text = text_of(run, self);
  Builder out(run.heap());
  std::int64_t column = 0;
  for (std::size_t at = 0; at < text.size(); at += character_bytes(text, at)) {
    const std::string_view character = text.substr(at, character_bytes(text, at));
    if (character == "\t") {
      const std::int64_t missing = size > 0 ? size - column % size : 0;
      out.add_repeated(" ", missing);
      column += missing;
    } else {
      out.add(character);
      column = character == "\n" || character == "\r" ? 0 : column + 1;
    }
  }
  return out.value();
}

/// Tests of every character. Letters and digits beyond ASCII need tables that this interpreter does not carry: that is
/// said, not guessed.
template <bool letters, bool digits>
Value is_made_of(Interpreter& run, const Function& self, const Call&) {
  const std::string_view text = text_of(run, self);
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) {
      throw Failure{std::string(self.name) + "() of characters beyond ASCII is not supported"};
    }
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!((letters && is_letter) || (digits && c >= '0' && c <= '9'))) return Value::boolean(false);
  }
  return Value::boolean(!text.empty());
}

Value is_space_only(Interpreter& run, const Function& self, const Call&) {
  const std::string_view text = text_of(run, self);
  return Value::boolean(!text.empty() && strip(text).empty());
}

template <bool is_upper>
Value has_case(Interpreter& run, const Function& self, const Call&) {
  return Value::boolean(run.test(is_upper ? "upper" : "lower", self.self, Call(run.heap())));
}

Value is_title(Interpreter& run, const Function& self, const Call&) {
  const std::string_view text = text_of(run, self);
  return Value::boolean(title(text) == text && upper(text) != lower(text));
}

Value is_ascii(Interpreter& run, const Function& self, const Call&) {
  const std::string_view text = text_of(run, self);
  return Value::boolean(std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
}

constexpr Named<NativeFunction> kMethods[] = {
    {"strip", stripped<true, true>},
    {"lstrip", stripped<true, false>},
    {"rstrip", stripped<false, true>},
    {"split", split<false>},
    {"rsplit", split<true>},
    {"splitlines", split_into_lines},
    {"partition", partition<false>},
    {"rpartition", partition<true>},
    {"startswith", has_affix<false>},
    {"endswith", has_affix<true>},
    {"removeprefix", without_affix<false>},
    {"removesuffix", without_affix<true>},
    {"replace", replace},
    {"upper", mapped<upper>},
    {"lower", mapped<lower>},
    {"casefold", mapped<lower>},
    {"title", mapped<title>},
    {"capitalize", mapped<capitalize>},
    {"swapcase", mapped<swap_case>},
    {"find", find<false, false>},
    {"rfind", find<true, false>},
    {"index", find<false, true>},
    {"rindex", find<true, true>},
    {"count", count},
    {"join", join},
    {"format", format},
    {"ljust", justify<Side::left>},
    {"rjust", justify<Side::right>},
    {"center", justify<Side::both>},
    {"zfill", zfill},
    {"expandtabs", expand_tabs},
    {"isalpha", is_made_of<true, false>},
    {"isdigit", is_made_of<false, true>},
    {"isdecimal", is_made_of<false, true>},
    {"isnumeric", is_made_of<false, true>},
    {"isalnum", is_made_of<true, true>},
    {"isspace", is_space_only},
    {"isupper", has_case<true>},
    {"islower", has_case<false>},
    {"istitle", is_title},
    {"isascii", is_ascii},
};

}  // namespace

Value replaced(Heap& heap, std::string_view text, std::string_view from, std::string_view to, std::int64_t count) {
  heap.work_bytes(2 * text.size());
  const std::int64_t found = occurrences(text, from);
  const auto times = static_cast<std::size_t>(count < 0 ? found : std::min(found, count));
  if (times == 0) return Value::string(text);
  heap.work(times);
  if (to.size() > heap.memory_left() / times) throw Failure{"the template needs more memory than a rendering may"};
  heap.work_bytes(times * to.size());
  return heap.make_string(replace_text(text, from, to, count));
}

Value justified(Heap& heap, std::string_view text, std::int64_t width, std::string_view fill, char align) {
  if (count_characters(fill) != 1) throw Failure{"the fill character must be exactly one character long"};
  const std::int64_t size = static_cast<std::int64_t>(count_characters(text));
  if (width <= size) return Value::string(text);
  const std::int64_t missing = width - size;
  // Python puts the odd character of centred text to the left where the width is odd too.
  const std::int64_t before = align == '<' ? 0 : align == '>' ? missing : missing / 2 + (missing & width & 1);
  Builder out(heap);
  out.add_repeated(fill, before).add(text).add_repeated(fill, missing - before);
  return out.value();
}

std::span<const Named<NativeFunction>> string_methods() { return kMethods; }

}  // namespace quern::jinja
