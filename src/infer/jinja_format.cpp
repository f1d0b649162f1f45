#include "infer/jinja_format.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>

#include "infer/jinja_print.hpp"
#include "infer/jinja_text.hpp"

namespace quern::jinja {

namespace {

constexpr std::int64_t kMaxWidth = 100'000;  // of a field; no template needs a hundredth
constexpr std::int64_t kMaxPrecision = 300;  // digits; more than a double has

/// How one field is laid out, in the words of both mini-languages.
struct Layout {
  std::string_view fill = " ";
  char align = '\0';  ///< < > ^ =; none: numbers right, text left
  char sign = '-';
  bool alternate = false, zeros = false;
  char group = '\0';  ///< , or _
  std::int64_t width = 0, precision = -1;
  char type = '\0';
};

std::string grouped(const std::string& digits, char separator, std::size_t size) {
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % size == 0) out += separator;
    out += digits[i];
  }
  return out;
}

std::string integer_digits(std::uint64_t magnitude, unsigned base, bool is_upper) {
  const std::string_view digits = is_upper ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string out;
  do {
    out += digits[static_cast<std::size_t>(magnitude % base)];
    magnitude /= base;
  } while (magnitude > 0);
  std::reverse(out.begin(), out.end());
  return out;
}

std::string float_digits(double magnitude, const Layout& layout) {
  if (layout.type == '\0' && layout.precision < 0) return float_text(magnitude);
  const char type = layout.type == '\0' ? 'g' : layout.type == '%' ? 'f' : layout.type;
  const std::string format = std::string("%") + (layout.alternate ? "#" : "") + ".*" + type;
  const int precision = static_cast<int>(layout.precision < 0 ? 6 : layout.precision);
  std::array<char, 700> buffer{};
  const int size = std::snprintf(buffer.data(), buffer.size(), format.c_str(), precision,
                                 layout.type == '%' ? magnitude * 100 : magnitude);
  return std::string(buffer.data(), static_cast<std::size_t>(std::clamp(size, 0, 699)));
}

/// Sign and digits, to be padded between the two where zeros fill.
std::pair<std::string, std::string> number_parts(const Value& value, const Layout& layout) {
  const bool as_float = value.is(Kind::floating) || std::string_view("eEfFgG%").find(layout.type) != std::string_view::npos;
  const bool is_negative = as_float ? std::signbit(value.as_double()) : value.as_integer() < 0;
  std::string sign = is_negative ? "-" : layout.sign == '+' ? "+" : layout.sign == ' ' ? " " : "";
  std::string digits;
  if (as_float && !(layout.type == '\0' && !value.is(Kind::floating))) {
    digits = float_digits(std::fabs(value.as_double()), layout);
    if (layout.group != '\0') {
      const std::size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
      digits = grouped(digits.substr(0, whole), layout.group, 3) + digits.substr(whole);
    }
    if (layout.type == '%') digits += '%';
    return {sign, digits};
  }
  const auto magnitude =
      is_negative ? ~static_cast<std::uint64_t>(value.as_integer()) + 1 : static_cast<std::uint64_t>(value.as_integer());
  const char type = layout.type;
  const unsigned base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  digits = integer_digits(magnitude, base, type == 'X');
  if (layout.group != '\0') digits = grouped(digits, layout.group, base == 10 ? 3 : 4);
  if (layout.alternate && base != 10) sign += std::string("0") + type;
  return {sign, digits};
}

void add_padded(Builder& out, std::string_view sign, std::string_view body, const Layout& layout, char align) {
  const auto size = static_cast<std::int64_t>(count_characters(sign) + count_characters(body));
  const std::int64_t missing = std::max<std::int64_t>(layout.width - size, 0);
  const std::int64_t before = align == '>' ? missing : align == '^' ? missing / 2 : 0;
  out.add_repeated(layout.fill, before).add(sign);
  if (align == '=') out.add_repeated(layout.fill, missing);
  out.add(body);
  if (align != '=') out.add_repeated(layout.fill, missing - before);
}

void add_number(Builder& out, const Value& value, Layout layout) {
  if (layout.zeros && layout.align == '\0') {
    layout.align = '=';
    layout.fill = "0";
  }
  const auto [sign, digits] = number_parts(value, layout);
  add_padded(out, sign, digits, layout, layout.align == '\0' ? '>' : layout.align);
}

void add_text(Builder& out, std::string_view text, const Layout& layout) {
  if (layout.precision >= 0) text = text.substr(0, byte_offset(text, static_cast<std::size_t>(layout.precision)));
  add_padded(out, {}, text, layout, layout.align == '\0' || layout.align == '=' ? '<' : layout.align);
}

/// Reads decimal digits; fails beyond `limit`.
std::int64_t read_number(std::string_view text, std::size_t& at, std::int64_t limit) {
  std::int64_t number = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    number = number * 10 + (text[at] - '0');
    if (number > limit) throw Failure{"a width or precision in a format is too large"};
  }
  return number;
}

/// [[fill]align][sign][#][0][width][grouping][.precision][type]
Layout read_layout(std::string_view spec) {
  Layout layout;
  std::size_t at = 0;
  static constexpr std::string_view kAligns = "<>^=";
  const auto is_align = [&](std::size_t i) { return i < spec.size() && kAligns.find(spec[i]) != std::string_view::npos; };
  const std::size_t first = spec.empty() ? 0 : character_bytes(spec, 0);
  if (!spec.empty() && is_align(first)) {
    layout.fill = spec.substr(0, first);
    layout.align = spec[first];
    at = first + 1;
  } else if (is_align(0)) {
    layout.align = spec[0];
    at = 1;
  }
  const auto take = [&](std::string_view any) {
    return at < spec.size() && any.find(spec[at]) != std::string_view::npos ? spec[at++] : '\0';
  };
  if (const char sign = take("+- ")) layout.sign = sign;
  layout.alternate = take("#") != '\0';
  layout.zeros = take("0") != '\0';
  layout.width = read_number(spec, at, kMaxWidth);
  layout.group = take(",_");
  if (take(".") != '\0') layout.precision = read_number(spec, at, kMaxWidth);
  layout.type = take("bcdeEfFgGnosxX%");
  if (at != spec.size()) throw Failure{"Invalid format specifier '" + std::string(spec) + "'"};
  return layout;
}

/// format(value, spec).
void add_formatted(Builder& out, const Value& value, std::string_view spec) {
  const Layout layout = read_layout(spec);
  if (value.is_number() && !(value.is(Kind::boolean) && spec.empty())) {
    const bool is_integer_type = std::string_view("bdoxXcn").find(layout.type) != std::string_view::npos;
    if (layout.type == 's' || (layout.type != '\0' && is_integer_type && value.is(Kind::floating))) {
      throw Failure{"Unknown format code '" + std::string(1, layout.type) + "' for object of type '" +
                    std::string(type_word(value.kind())) + "'"};
    }
    if (layout.precision > kMaxPrecision) throw Failure{"a width or precision in a format is too large"};
    add_number(out, value, layout);
    return;
  }
  if (layout.type != '\0' && layout.type != 's') {
    throw Failure{"Unknown format code '" + std::string(1, layout.type) + "' for object of type '" +
                  std::string(type_word(value.kind())) + "'"};
  }
  if (!value.is(Kind::string) && !spec.empty()) {
    throw Failure{"unsupported format string passed to " + std::string(type_word(value.kind())) + ".__format__"};
  }
  add_text(out, to_text(out.heap(), value), layout);
}

}  // namespace

Value format_braces(Heap& heap, std::string_view format, const std::function<Value(std::string_view)>& look_up) {
  Builder out(heap);
  for (std::size_t at = 0; at < format.size();) {
    const char c = format[at];
    if ((c == '{' || c == '}') && at + 1 < format.size() && format[at + 1] == c) {
      out.add(c);
      at += 2;
    } else if (c == '}') {
      throw Failure{"Single '}' encountered in format string"};
    } else if (c == '{') {
      const std::size_t close = format.find('}', at);
      if (close == std::string_view::npos) throw Failure{"expected '}' before end of string"};
      std::string_view field = format.substr(at + 1, close - at - 1);
      if (field.find('{') != std::string_view::npos) throw Failure{"nested fields in a format are not supported"};
      const std::size_t colon = std::min(field.find(':'), field.size());
      const std::string_view spec = colon < field.size() ? field.substr(colon + 1) : std::string_view();
      field = field.substr(0, colon);
      const std::size_t bang = std::min(field.find('!'), field.size());
      const std::string_view conversion = field.substr(bang);
      Value value = look_up(field.substr(0, bang));
      if (conversion == "!s") {
        value = Value::string(to_text(heap, value));
      } else if (conversion == "!r" || conversion == "!a") {
        Builder repr(heap);
        append_repr(repr, value);
        value = repr.value();
      } else if (!conversion.empty()) {
        throw Failure{"Unknown conversion specifier '" + std::string(conversion) + "'"};
      }
      add_formatted(out, value, spec);
      at = close + 1;
    } else {
      const std::size_t end = std::min(format.find_first_of("{}", at), format.size());
      out.add(format.substr(at, end - at));
      at = end;
    }
  }
  return out.value();
}

namespace {

/// The arguments of a % format, taken in order or by name.
class PercentArguments {
 public:
  explicit PercentArguments(const Value& all) : all_(all) {}

  const Value& next() {
    if (all_.is(Kind::tuple)) {
      if (used_ >= all_.as_sequence()->items.size()) throw Failure{"not enough arguments for format string"};
      return all_.as_sequence()->items[used_++];
    }
    if (used_++ > 0) throw Failure{"not enough arguments for format string"};
    return all_;
  }

  const Value& named(std::string_view name) {
    if (!all_.is(Kind::dict)) throw Failure{"format requires a mapping"};
    const Value* const found = all_.as_dict()->find(name);
    if (found == nullptr) throw Failure{"the format names '" + std::string(name) + "', which is not given"};
    return *found;
  }

  void check_all_used() const {
    const bool is_left = all_.is(Kind::tuple) ? used_ < all_.as_sequence()->items.size()
                                              : used_ == 0 && !all_.is(Kind::dict) && !all_.is(Kind::list);
    if (is_left) throw Failure{"not all arguments converted during string formatting"};
  }

 private:
  const Value& all_;
  std::size_t used_ = 0;
};

/// One conversion behind its %, with `at` on the first character after it.
void add_percent(Builder& out, std::string_view format, std::size_t& at, PercentArguments& arguments) {
  std::string_view name;
  bool has_name = false;
  if (at < format.size() && format[at] == '(') {
    const std::size_t close = format.find(')', at);
    if (close == std::string_view::npos) throw Failure{"incomplete format key"};
    name = format.substr(at + 1, close - at - 1);
    has_name = true;
    at = close + 1;
  }
  Layout layout;
  layout.align = '>';
  for (bool more = true; more && at < format.size();) {
    switch (format[at]) {
      case '-':
        layout.align = '<';
        break;
      case '0':
        layout.zeros = true;
        break;
      case '+':
        layout.sign = '+';
        break;
      case ' ':
        layout.sign = layout.sign == '+' ? '+' : ' ';
        break;
      case '#':
        layout.alternate = true;
        break;
      default:
        more = false;
    }
    if (more) ++at;
  }
  layout.width = read_number(format, at, kMaxWidth);
  if (at < format.size() && format[at] == '.') layout.precision = read_number(format, ++at, kMaxPrecision);
  if (at >= format.size()) throw Failure{"incomplete format"};
  char type = format[at++];
  if (type == '%') {
    out.add('%');
    return;
  }
  const Value& value = has_name ? arguments.named(name) : arguments.next();
  if (type == 's' || type == 'r' || type == 'a') {
    Builder repr(out.heap());
    if (type == 's') {
      repr.add(to_text(out.heap(), value));
    } else {
      append_repr(repr, value);
    }
    add_text(out, repr.text(), layout);
    return;
  }
  if (std::string_view("diueEfFgGxXo").find(type) == std::string_view::npos) {
    throw Failure{"unsupported format character '" + std::string(1, type) + "'"};
  }
  if (!value.is_number()) {
    throw Failure{"%" + std::string(1, type) + " format: a real number is required, not " +
                  std::string(type_word(value.kind()))};
  }
  if (layout.zeros && layout.align == '>') layout.align = '\0';
  const bool wants_integer = type == 'd' || type == 'i' || type == 'u' || type == 'x' || type == 'X' || type == 'o';
  Value number = value;
  if (wants_integer && value.is(Kind::floating)) {
    if (!(std::fabs(value.as_double()) < 0x1p63)) throw Failure{"a float is too large for an integer format"};
    number = Value::integer(static_cast<std::int64_t>(value.as_double()));
  }
  layout.type = type == 'i' || type == 'u' ? 'd' : type;
  add_number(out, number, layout);
}

}  // namespace

Value format_percent(Heap& heap, std::string_view format, const Value& arguments) {
  Builder out(heap);
  PercentArguments values(arguments);
  for (std::size_t at = 0; at < format.size();) {
    if (format[at] == '%') {
      add_percent(out, format, ++at, values);
    } else {
      const std::size_t end = std::min(format.find('%', at), format.size());
      out.add(format.substr(at, end - at));
      at = end;
    }
  }
  values.check_all_used();
  return out.value();
}

}  // namespace quern::jinja
