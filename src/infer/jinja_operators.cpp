#include "infer/jinja_operators.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "infer/jinja_format.hpp"
#include "infer/jinja_text.hpp"

namespace quern::jinja {

namespace {

[[noreturn]] void overflow() { throw Failure{"an integer result does not fit into 64 bits"}; }

[[noreturn]] void unsupported_operands(std::string_view word, const Value& left, const Value& right) {
  throw Failure{"unsupported operand type(s) for " + std::string(word) + ": '" + std::string(type_word(left.kind())) +
                "' and '" + std::string(type_word(right.kind())) + "'"};
}

std::int64_t floor_divide(std::int64_t left, std::int64_t right) {
  if (left == std::numeric_limits<std::int64_t>::min() && right == -1) overflow();
  const std::int64_t quotient = left / right;
  return left % right != 0 && (left < 0) != (right < 0) ? quotient - 1 : quotient;
}

std::int64_t modulo(std::int64_t left, std::int64_t right) {
  if (right == -1) return 0;
  const std::int64_t rest = left % right;
  return rest != 0 && (rest < 0) != (right < 0) ? rest + right : rest;
}

double modulo(double left, double right) {
  const double rest = std::fmod(left, right);
  return rest != 0 && (rest < 0) != (right < 0) ? rest + right : rest == 0 ? std::copysign(0.0, right) : rest;
}

Value power(const Value& left, const Value& right) {
  if (!left.is_integral() || !right.is_integral() || right.as_integer() < 0) {
    const double base = left.as_double(), exponent = right.as_double();
    if (base == 0 && exponent < 0) throw Failure{"0.0 cannot be raised to a negative power"};
    if (base < 0 && exponent != std::floor(exponent)) throw Failure{"complex numbers are not supported"};
    const double result = std::pow(base, exponent);
    if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) throw Failure{"a float result is too large"};
    return Value::floating(result);
  }
  std::int64_t result = 1, base = left.as_integer();
  for (std::int64_t exponent = right.as_integer(); exponent > 0;) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return Value::integer(result);
}

Value divided(std::string_view word, const Value& left, const Value& right) {
  const bool integral = left.is_integral() && right.is_integral();
  if (integral ? right.as_integer() == 0 : right.as_double() == 0) throw Failure{"division by zero"};
  if (word == "/") return Value::floating(left.as_double() / right.as_double());
  if (integral) {
    const std::int64_t a = left.as_integer(), b = right.as_integer();
    return Value::integer(word == "%" ? modulo(a, b) : floor_divide(a, b));
  }
  const double a = left.as_double(), b = right.as_double();
  return Value::floating(word == "%" ? modulo(a, b) : std::floor(a / b));
}

Value arithmetic(std::string_view word, const Value& left, const Value& right) {
  if (word == "**") return power(left, right);
  if (word == "/" || word == "//" || word == "%") return divided(word, left, right);
  if (left.is_integral() && right.is_integral()) {
    std::int64_t result = 0;
    const std::int64_t a = left.as_integer(), b = right.as_integer();
    const bool overflows = word == "+"   ? __builtin_add_overflow(a, b, &result)
                           : word == "-" ? __builtin_sub_overflow(a, b, &result)
                                         : __builtin_mul_overflow(a, b, &result);
    if (overflows) overflow();
    return Value::integer(result);
  }
  const double a = left.as_double(), b = right.as_double();
  return Value::floating(word == "+" ? a + b : word == "-" ? a - b : a * b);
}

Value repeated(Heap& heap, const Value& value, std::int64_t count) {
  if (value.is(Kind::string)) {
    Builder out(heap);
    out.add_repeated(value.as_string(), count);
    return out.value();
  }
  const Values& items = value.as_sequence()->items;
  Sequence* const made = heap.make_sequence();
  if (count > 0 && !items.empty()) {
    if (static_cast<std::uint64_t>(count) > heap.memory_left() / sizeof(Value) / items.size()) {
      throw Failure{"the template needs more memory than a rendering may"};
    }
    heap.work(static_cast<std::size_t>(count) * items.size());
    made->items.reserve(static_cast<std::size_t>(count) * items.size());
    for (; count > 0; --count) made->items.insert(made->items.end(), items.begin(), items.end());
  }
  return Value::sequence(value.kind(), made);
}

Value joined(Heap& heap, const Value& left, const Value& right) {
  if (left.is(Kind::string)) {
    const std::string_view a = left.as_string(), b = right.as_string();
    char* const text = heap.make_text(a.size() + b.size());
    std::copy(a.begin(), a.end(), text);
    std::copy(b.begin(), b.end(), text + a.size());
    return Value::string({text, a.size() + b.size()});
  }
  const Values &a = left.as_sequence()->items, &b = right.as_sequence()->items;
  Sequence* const made = heap.make_sequence(a.size() + b.size());
  made->items.insert(made->items.end(), a.begin(), a.end());
  made->items.insert(made->items.end(), b.begin(), b.end());
  return Value::sequence(left.kind(), made);
}

bool repeats(const Value& value) { return value.is(Kind::string) || value.is(Kind::list) || value.is(Kind::tuple); }

}  // namespace

Value binary(Heap& heap, std::string_view word, const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) return arithmetic(word, left, right);
  if (word == "%" && left.is(Kind::string)) return format_percent(heap, left.as_string(), right);
  if (left.is(Kind::undefined)) throw Failure{missing_sentence(left)};
  if (right.is(Kind::undefined)) throw Failure{missing_sentence(right)};
  if (word == "+" && left.kind() == right.kind() && repeats(left)) return joined(heap, left, right);
  if (word == "*" && repeats(left) && right.is_integral()) return repeated(heap, left, right.as_integer());
  if (word == "*" && repeats(right) && left.is_integral()) return repeated(heap, right, left.as_integer());
  if (word == "+" && repeats(left)) {
    const std::string type(type_word(left.kind()));
    throw Failure{"can only concatenate " + type + " (not \"" + std::string(type_word(right.kind())) + "\") to " + type};
  }
  unsupported_operands(word, left, right);
}

Value negated(const Value& value) {
  if (value.is(Kind::floating)) return Value::floating(-value.as_double());
  if (value.is(Kind::undefined)) throw Failure{missing_sentence(value)};
  if (!value.is_integral()) throw Failure{"bad operand type for unary -: '" + std::string(type_word(value.kind())) + "'"};
  if (value.as_integer() == std::numeric_limits<std::int64_t>::min()) overflow();
  return Value::integer(-value.as_integer());
}

bool compares(Heap& heap, std::string_view word, const Value& left, const Value& right) {
  if (word == "==") return equal(heap, left, right);
  if (word == "!=") return !equal(heap, left, right);
  const auto is_nan = [](const Value& v) { return v.is(Kind::floating) && std::isnan(v.as_double()); };
  if ((is_nan(left) && right.is_number()) || (is_nan(right) && left.is_number())) return false;
  const int order = compare(heap, left, right, word);
  return word == "<" ? order < 0 : word == "<=" ? order <= 0 : word == ">" ? order > 0 : order >= 0;
}

SliceBounds slice_bounds(std::int64_t length, std::optional<std::int64_t> start, std::optional<std::int64_t> stop,
                         std::int64_t step) {
  if (step == 0) throw Failure{"slice step cannot be zero"};
  const auto placed = [&](std::int64_t index) {  // between the first and the last place where a slice may start or end
    if (index < 0) index = index < -length ? -1 : index + length;
    return std::clamp<std::int64_t>(index, step < 0 ? -1 : 0, step < 0 ? length - 1 : length);
  };
  const std::int64_t first = start ? placed(*start) : step < 0 ? length - 1 : 0;
  const std::int64_t last = stop ? placed(*stop) : step < 0 ? -1 : length;
  const std::int64_t span = step > 0 ? last - first : first - last;
  if (span <= 0) return {first, step, 0};
  const std::uint64_t stride = step > 0 ? static_cast<std::uint64_t>(step) : ~static_cast<std::uint64_t>(step) + 1;
  return {first, step, static_cast<std::int64_t>((static_cast<std::uint64_t>(span) - 1) / stride) + 1};
}

namespace {

std::optional<std::int64_t> bound(const Value& value) {
  if (value.is(Kind::none)) return std::nullopt;
  if (value.is(Kind::undefined)) throw Failure{"slice indices must be integers or None or have an __index__ method"};
  if (!value.is_integral()) throw Failure{"slice indices must be integers or None or have an __index__ method"};
  return value.as_integer();
}

Value slice_text(Heap& heap, std::string_view text, const SliceBounds& bounds, std::size_t characters) {
  const auto count = static_cast<std::size_t>(bounds.count);
  if (bounds.count == 0) return Value::string({});
  const auto start = static_cast<std::size_t>(bounds.start);
  const bool is_ascii = characters == text.size();
  if (bounds.step == 1) {
    if (is_ascii) return Value::string(text.substr(start, count));
    const std::size_t first = byte_offset(text, start);
    return Value::string(text.substr(first, byte_offset(text.substr(first), count)));
  }
  std::vector<std::size_t> offsets;  // of every character
  heap.work(characters);
  for (std::size_t at = 0; at < text.size(); at += character_bytes(text, at)) offsets.push_back(at);
  Builder out(heap);
  std::int64_t index = bounds.start;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t at = offsets[static_cast<std::size_t>(index)];
    out.add(text.substr(at, character_bytes(text, at)));
    if (i + 1 < count) index += bounds.step;
  }
  return out.value();
}

}  // namespace

Value slice(Heap& heap, const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (value.is(Kind::undefined)) throw Failure{missing_sentence(value)};
  const bool is_text = value.is(Kind::string);
  if (!is_text && !value.is(Kind::list) && !value.is(Kind::tuple) && !value.is(Kind::range)) {
    return heap.make_missing(value.kind(), "slice", true);
  }
  const std::int64_t stride = bound(step).value_or(1);
  if (is_text) heap.work_bytes(value.as_string().size());
  const std::int64_t size = length(value);
  const SliceBounds bounds = slice_bounds(size, bound(start), bound(stop), stride);
  if (is_text) return slice_text(heap, value.as_string(), bounds, static_cast<std::size_t>(size));
  Sequence* const made = heap.make_sequence(static_cast<std::size_t>(bounds.count));
  std::int64_t index = bounds.start;
  for (std::int64_t i = 0; i < bounds.count; ++i) {
    made->items.push_back(value.as_sequence()->items[static_cast<std::size_t>(index)]);
    if (i + 1 < bounds.count) index += stride;
  }
  if (value.is(Kind::range)) {
    made->start = value.as_sequence()->start + bounds.start * value.as_sequence()->step;
    made->step = value.as_sequence()->step * stride;
    made->stop = made->start + made->step * bounds.count;
  }
  return Value::sequence(value.kind(), made);
}

}  // namespace quern::jinja
