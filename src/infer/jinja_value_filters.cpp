// Filters of single values: numbers, defaults, JSON.
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <optional>

#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_operators.hpp"
#include "infer/jinja_print.hpp"
#include "infer/jinja_text.hpp"

namespace quern::jinja {

namespace {

Value default_filter(Interpreter&, const Value& input, const Call& call) {
  const Bound bound(call, "default", {"default_value", "boolean"});
  const bool is_absent = input.is(Kind::undefined) || (bound.flag(1) && !truth(input));
  if (!is_absent) return input;
  return bound[0] != nullptr ? bound.at(0) : Value::string("");
}

/// Digits with single underscores between them, as Python's int() and float() take them; nothing where they are misplaced.
std::optional<std::string> without_underscores(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    const auto is_digit = [&](std::size_t at) {
      return at < text.size() && std::isalnum(static_cast<unsigned char>(text[at]));
    };
    if (i == 0 || !is_digit(i - 1) || !is_digit(i + 1)) return std::nullopt;
  }
  return out;
}

std::optional<double> parse_float(std::string_view text) {
  const auto digits = without_underscores(strip(text));
  if (!digits || digits->empty()) return std::nullopt;
  std::string_view number = *digits;
  if (number.starts_with('+')) number.remove_prefix(1);
  if (number.starts_with('+') || (number.starts_with('-') && digits->starts_with('+'))) return std::nullopt;
  const std::string word = lower(number);
  if (word == "nan" || word == "-nan") return std::numeric_limits<double>::quiet_NaN();
  const bool is_negative = word.starts_with('-');
  const std::string_view bare = std::string_view(word).substr(is_negative ? 1 : 0);
  if (bare == "inf" || bare == "infinity") return is_negative ? -HUGE_VAL : HUGE_VAL;
  double value = 0;
  const auto read = std::from_chars(word.data(), word.data() + word.size(), value);
  if (read.ptr != word.data() + word.size() || bare.starts_with('i') || bare.starts_with('n')) return std::nullopt;
  if (read.ec == std::errc::result_out_of_range)
    return word.find("e-") != std::string::npos ? 0.0 : is_negative ? -HUGE_VAL : HUGE_VAL;
  return read.ec == std::errc() ? std::optional(value) : std::nullopt;
}

std::optional<std::int64_t> parse_integer(std::string_view text, std::int64_t base) {
  const auto digits = without_underscores(strip(text));
  if (!digits || digits->empty() || base < 2 || base > 36) return std::nullopt;
  std::string_view number = *digits;
  const bool has_sign = number.starts_with('-') || number.starts_with('+');
  const bool is_negative = number.starts_with('-');
  if (has_sign) number.remove_prefix(1);
  const std::string prefix = lower(number.substr(0, 2));
  if ((base == 16 && prefix == "0x") || (base == 8 && prefix == "0o") || (base == 2 && prefix == "0b"))
    number.remove_prefix(2);
  const std::string whole = (is_negative ? "-" : "") + std::string(number);
  if (number.empty() || number.starts_with('-')) return std::nullopt;
  std::int64_t value = 0;
  const auto read = std::from_chars(whole.data(), whole.data() + whole.size(), value, static_cast<int>(base));
  if (read.ec == std::errc::result_out_of_range) throw Failure{"the number " + whole + " is not a 64-bit integer"};
  if (read.ec != std::errc() || read.ptr != whole.data() + whole.size()) return std::nullopt;
  return value;
}

std::optional<std::int64_t> truncated(double value) {
  if (!std::isfinite(value)) return std::nullopt;
  if (!(std::fabs(value) < 0x1p63)) throw Failure{"a float is too large for a 64-bit integer"};
  return static_cast<std::int64_t>(value);
}

Value int_filter(Interpreter&, const Value& input, const Call& call) {
  const Bound bound(call, "int", {"default", "base"});
  std::optional<std::int64_t> value;
  if (input.is(Kind::undefined)) throw Failure{missing_sentence(input)};
  if (input.is_integral()) value = input.as_integer();
  if (input.is(Kind::floating)) value = truncated(input.as_double());
  if (input.is(Kind::string)) {
    value = parse_integer(input.as_string(), bound.integer(1, 10));
    if (!value) {
      const auto real = parse_float(input.as_string());
      if (real) value = truncated(*real);
    }
  }
  if (value) return Value::integer(*value);
  return bound[0] != nullptr ? bound.at(0) : Value::integer(0);
}

Value float_filter(Interpreter&, const Value& input, const Call& call) {
  const Bound bound(call, "float", {"default"});
  if (input.is(Kind::undefined)) throw Failure{missing_sentence(input)};
  if (input.is_number()) return Value::floating(input.as_double());
  if (input.is(Kind::string)) {
    if (const auto value = parse_float(input.as_string())) return Value::floating(*value);
  }
  return bound[0] != nullptr ? bound.at(0) : Value::floating(0.0);
}

Value abs_filter(Interpreter&, const Value& input, const Call&) {
  if (input.is(Kind::floating)) return Value::floating(std::fabs(input.as_double()));
  if (input.is(Kind::undefined)) throw Failure{missing_sentence(input)};
  if (!input.is_integral()) throw Failure{"bad operand type for abs(): '" + std::string(type_word(input.kind())) + "'"};
  return input.as_integer() < 0 ? negated(input) : Value::integer(input.as_integer());
}

/// Correct decimal rounding, ties to even, by the C library's exact conversion.
double rounded(double value, std::int64_t digits) {
  if (!std::isfinite(value) || digits > 300) return value;
  if (digits < 0) {
    if (digits < -300) return 0.0;
    const double unit = std::pow(10.0, static_cast<double>(-digits));
    return std::nearbyint(value / unit) * unit;
  }
  std::string text(700, '\0');
  const int size = std::snprintf(text.data(), text.size(), "%.*f", static_cast<int>(digits), value);
  double out = value;
  std::from_chars(text.data(), text.data() + size, out);
  return out;
}

Value round_integer(std::int64_t value, std::int64_t digits) {
  if (digits >= 0) return Value::integer(value);
  if (digits < -18) return Value::integer(0);
  std::int64_t unit = 1;
  for (std::int64_t i = digits; i < 0; ++i) unit *= 10;
  std::int64_t quotient = value / unit;
  const std::int64_t rest = std::abs(value % unit);
  if (rest * 2 > unit || (rest * 2 == unit && quotient % 2 != 0)) quotient += value < 0 ? -1 : 1;
  std::int64_t result = 0;
  if (__builtin_mul_overflow(quotient, unit, &result)) throw Failure{"an integer result does not fit into 64 bits"};
  return Value::integer(result);
}

Value round_filter(Interpreter&, const Value& input, const Call& call) {
  const Bound bound(call, "round", {"precision", "method"});
  const std::int64_t digits = bound.integer(0, 0);
  const std::string_view method = bound.string(1, "common");
  if (input.is(Kind::undefined)) throw Failure{missing_sentence(input)};
  if (!input.is_number()) throw Failure{"round needs a number, found '" + std::string(type_word(input.kind())) + "'"};
  if (method == "common") {
    return input.is_integral() ? round_integer(input.as_integer(), digits)
                               : Value::floating(rounded(input.as_double(), digits));
  }
  if (method != "ceil" && method != "floor") throw Failure{"method must be common, ceil or floor"};
  const double unit = std::pow(10.0, static_cast<double>(digits));
  const double scaled = input.as_double() * unit;
  return Value::floating((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

/// The tojson of chat templates: json.dumps with its defaults but ensure_ascii off.
Value tojson(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonOptions options;
  options.ensure_ascii = bound.flag(0);
  options.sort_keys = bound.flag(3);
  if (bound[1] != nullptr && !bound.at(1).is(Kind::none)) {
    if (bound.at(1).is(Kind::string)) {
      options.indent = std::string(bound.string(1));
    } else {
      const std::int64_t width = bound.integer(1);
      if (width > 1000) throw Failure{"an indent of more than 1000 characters is not allowed"};
      options.indent = std::string(width > 0 ? static_cast<std::size_t>(width) : 0, ' ');
    }
  }
  if (bound[2] != nullptr && !bound.at(2).is(Kind::none)) {
    const Values& parts = elements(run.heap(), bound.at(2))->items;
    if (parts.size() != 2 || !parts[0].is(Kind::string) || !parts[1].is(Kind::string)) {
      throw Failure{"separators must be a pair of strings"};
    }
    options.item_separator = std::string(parts[0].as_string());
    options.key_separator = std::string(parts[1].as_string());
  }
  Builder out(run.heap());
  append_json(out, input, options);
  return out.value();
}

Value attr(Interpreter& run, const Value& input, const Call& call) {
  const Bound bound(call, "attr", {"name"}, 1);
  const std::string_view name = bound.string(0);
  return input.is(Kind::dict) && find_named(dict_methods(), name) == nullptr ? run.heap().make_missing(input.kind(), name)
                                                                             : run.attribute(input, name);
}

constexpr Named<FilterFunction> kFilters[] = {
    {"default", default_filter}, {"d", default_filter},   {"int", int_filter}, {"float", float_filter},
    {"abs", abs_filter},         {"round", round_filter}, {"tojson", tojson},  {"attr", attr},
};

}  // namespace

std::span<const Named<FilterFunction>> value_filters() { return kFilters; }

}  // namespace quern::jinja
