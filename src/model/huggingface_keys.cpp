#include "model/huggingface_keys.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "model/gguf_values.hpp"
#include "model/json_document.hpp"

namespace quern::internal {

namespace {

using Json = nlohmann::ordered_json;

/// A value for a message: short ones as they are.
std::string found(const Json* value) {
  if (value == nullptr) return "none";
  if (value->is_array() || value->is_object()) return std::string(json_kind(*value));
  return shown(value->dump(-1, ' ', true, Json::error_handler_t::replace));
}

}  // namespace

const Json* HuggingFaceKeys::find(std::string_view key) const {
  const auto at = object_->find(std::string(key));
  return at == object_->end() || at->is_null() ? nullptr : &*at;
}

std::int64_t HuggingFaceKeys::integer(std::string_view key, std::int64_t min, std::int64_t max) {
  const Json* value = find(key);
  std::int64_t result = min;
  bool good = false;
  if (value != nullptr && value->is_number_integer() &&
      !(value->is_number_unsigned() &&
        value->get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))) {
    result = value->get<std::int64_t>();
    good = result >= min && result <= max;
  }
  if (good) return result;
  wrong(key, fmt::format("an integer from {} to {}", min, max));
  return min;
}

std::int64_t HuggingFaceKeys::integer_or(std::string_view key, std::int64_t fallback, std::int64_t min, std::int64_t max) {
  return has(key) ? integer(key, min, max) : fallback;
}

double HuggingFaceKeys::number(std::string_view key) {
  const Json* value = find(key);
  if (value != nullptr && value->is_number()) {
    const auto number = value->get<double>();
    if (std::isfinite(number) && std::abs(number) <= static_cast<double>(std::numeric_limits<float>::max())) return number;
  }
  wrong(key, "a number");
  return 1.0;
}

double HuggingFaceKeys::number_or(std::string_view key, double fallback) { return has(key) ? number(key) : fallback; }

bool HuggingFaceKeys::bool_or(std::string_view key, bool fallback) {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  wrong(key, "true or false");
  return fallback;
}

std::string HuggingFaceKeys::string_or(std::string_view key, std::string_view fallback) {
  const Json* value = find(key);
  if (value == nullptr) return std::string(fallback);
  if (value->is_string()) return value->get<std::string>();
  wrong(key, "a string");
  return std::string(fallback);
}

std::vector<float> HuggingFaceKeys::floats(std::string_view key) {
  std::vector<float> numbers;
  const Json* value = find(key);
  if (value == nullptr || !value->is_array()) {
    wrong(key, "an array of numbers");
    return numbers;
  }
  for (const Json& item : *value) {
    if (!item.is_number()) {
      fail(fmt::format("{} must hold numbers, found {}", full(key), json_kind(item)));
      return numbers;
    }
    const auto number = item.get<double>();
    if (!(std::abs(number) <= static_cast<double>(std::numeric_limits<float>::max()))) {
      fail(fmt::format("{} holds {}, which is too large", full(key), number));
      return numbers;
    }
    numbers.push_back(static_cast<float>(number));
  }
  return numbers;
}

std::vector<std::string> HuggingFaceKeys::strings(std::string_view key) {
  std::vector<std::string> texts;
  const Json* value = find(key);
  if (value == nullptr || !value->is_array()) {
    wrong(key, "an array of strings");
    return texts;
  }
  for (const Json& item : *value) {
    if (!item.is_string()) {
      fail(fmt::format("{} must hold strings, found {}", full(key), json_kind(item)));
      return texts;
    }
    texts.push_back(item.get<std::string>());
  }
  return texts;
}

const Json* HuggingFaceKeys::object_or_null(std::string_view key) {
  const Json* value = find(key);
  if (value == nullptr || value->is_object()) return value;
  wrong(key, "an object");
  return nullptr;
}

void HuggingFaceKeys::refuse(std::string_view key) {
  fail(fmt::format("{} is {}, which is not supported", full(key), found(find(key))));
}

void HuggingFaceKeys::fail(const std::string& message) {
  if (!failed()) error_ = Error{ErrorCode::bad_input, where_ + ": " + message};
}

void HuggingFaceKeys::wrong(std::string_view key, std::string_view expected) {
  fail(fmt::format("{} must be {}, found {}", full(key), expected, found(find(key))));
}

}  // namespace quern::internal
