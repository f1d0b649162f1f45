// Typed access to the metadata of a GGUF file.
#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "model/gguf_file.hpp"
#include "model/gguf_values.hpp"

namespace quern {

using internal::described;
using internal::element_of;
using internal::GgufNumber;

namespace {

tl::unexpected<Error> missing(const GgufFile& file, std::string_view key) {
  return bad_input(fmt::format("{}: key '{}' is missing", file.name(), key));
}

template <class Expected>
tl::unexpected<Error> mismatch(const GgufFile& file, const GgufValue& value, const Expected& expected) {
  return bad_input(fmt::format("{}: key '{}': expected {}, found {}", file.name(), value.key, expected, described(value)));
}

std::optional<double> as_double(const GgufNumber& number) {
  double value = 0;
  if (const auto* real = std::get_if<double>(&number)) {
    value = *real;
  } else if (const auto* integer = std::get_if<std::int64_t>(&number)) {
    value = static_cast<double>(*integer);
  } else if (const auto* large = std::get_if<std::uint64_t>(&number)) {
    value = static_cast<double>(*large);
  } else {
    return std::nullopt;
  }
  if (!std::isfinite(value)) return std::nullopt;
  return value;
}

// The elements of an array value as `Out`, each through `convert`, which gives nothing for one that it does not take.
template <class Out, class Convert>
Result<std::vector<Out>> elements(const GgufFile& file, const GgufValue& value, const GgufArray& array,
                                  std::string_view expected, const Convert& convert) {
  if (array.type == GgufType::string) return mismatch(file, value, expected);
  std::vector<Out> out;
  out.reserve(static_cast<std::size_t>(array.count));
  for (std::int64_t i = 0; i < array.count; ++i) {
    const std::optional<Out> element = convert(element_of(array, i));
    if (!element) {
      return bad_input(fmt::format("{}: key '{}': expected {}, found {} whose element {} is none", file.name(), value.key,
                                   expected, described(value), i));
    }
    out.push_back(*element);
  }
  return out;
}

}  // namespace

Result<std::int64_t> GgufFile::require_integer(std::string_view key, std::int64_t min, std::int64_t max) const {
  const GgufValue* const value = find(key);
  if (value == nullptr) return missing(*this, key);
  const auto* const integer = std::get_if<std::int64_t>(&value->value);
  if (integer == nullptr || *integer < min || *integer > max) {
    return mismatch(*this, *value, fmt::format("an integer from {} to {}", min, max));
  }
  return *integer;
}

Result<std::int64_t> GgufFile::integer_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                                          std::int64_t max) const {
  if (find(key) == nullptr) return fallback;
  return require_integer(key, min, max);
}

Result<double> GgufFile::require_number(std::string_view key) const {
  const GgufValue* const value = find(key);
  if (value == nullptr) return missing(*this, key);
  std::optional<double> number;
  if (const auto* integer = std::get_if<std::int64_t>(&value->value)) number = as_double(*integer);
  if (const auto* large = std::get_if<std::uint64_t>(&value->value)) number = as_double(*large);
  if (const auto* real = std::get_if<double>(&value->value)) number = as_double(*real);
  if (!number) return mismatch(*this, *value, "a finite number");
  return *number;
}

Result<double> GgufFile::number_or(std::string_view key, double fallback) const {
  if (find(key) == nullptr) return fallback;
  return require_number(key);
}

Result<bool> GgufFile::bool_or(std::string_view key, bool fallback) const {
  const GgufValue* const value = find(key);
  if (value == nullptr) return fallback;
  const auto* const truth = std::get_if<bool>(&value->value);
  if (truth == nullptr) return mismatch(*this, *value, "a bool");
  return *truth;
}

Result<std::string_view> GgufFile::require_string(std::string_view key) const {
  const GgufValue* const value = find(key);
  if (value == nullptr) return missing(*this, key);
  const auto* const text = std::get_if<std::string_view>(&value->value);
  if (text == nullptr) return mismatch(*this, *value, "a string");
  return *text;
}

Result<std::string_view> GgufFile::string_or(std::string_view key, std::string_view fallback) const {
  if (find(key) == nullptr) return fallback;
  return require_string(key);
}

Result<std::span<const std::string_view>> GgufFile::strings(std::string_view key) const {
  const GgufValue* const value = find(key);
  if (value == nullptr) return std::span<const std::string_view>();
  const auto* const array = std::get_if<GgufArray>(&value->value);
  if (array == nullptr || array->type != GgufType::string) return mismatch(*this, *value, "an array of strings");
  return std::span<const std::string_view>(array->strings);
}

Result<std::vector<std::int64_t>> GgufFile::integers(std::string_view key) const {
  constexpr std::string_view kExpected = "integers of 64 bits";
  const GgufValue* const value = find(key);
  if (value == nullptr) return std::vector<std::int64_t>();
  if (const auto* const one = std::get_if<std::int64_t>(&value->value)) return std::vector<std::int64_t>{*one};
  const auto* const array = std::get_if<GgufArray>(&value->value);
  if (array == nullptr) return mismatch(*this, *value, kExpected);
  return elements<std::int64_t>(*this, *value, *array, kExpected, [](const GgufNumber& number) {
    const auto* const integer = std::get_if<std::int64_t>(&number);
    return integer == nullptr ? std::nullopt : std::optional(*integer);
  });
}

Result<std::vector<float>> GgufFile::floats(std::string_view key) const {
  constexpr std::string_view kExpected = "an array of finite numbers";
  const GgufValue* const value = find(key);
  if (value == nullptr) return std::vector<float>();
  const auto* const array = std::get_if<GgufArray>(&value->value);
  if (array == nullptr) return mismatch(*this, *value, kExpected);
  return elements<float>(*this, *value, *array, kExpected, [](const GgufNumber& number) -> std::optional<float> {
    const auto wide = as_double(number);
    if (!wide || std::abs(*wide) > double{std::numeric_limits<float>::max()}) return std::nullopt;
    return static_cast<float>(*wide);
  });
}

Result<std::vector<bool>> GgufFile::bools(std::string_view key) const {
  constexpr std::string_view kExpected = "bools";
  const GgufValue* const value = find(key);
  if (value == nullptr) return std::vector<bool>();
  if (const auto* const one = std::get_if<bool>(&value->value)) return std::vector<bool>{*one};
  const auto* const array = std::get_if<GgufArray>(&value->value);
  if (array == nullptr) return mismatch(*this, *value, kExpected);
  return elements<bool>(*this, *value, *array, kExpected, [](const GgufNumber& number) {
    const auto* const truth = std::get_if<bool>(&number);
    return truth == nullptr ? std::nullopt : std::optional(*truth);
  });
}

}  // namespace quern
