// Keys of config.json, read straight through: the first error is kept.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"

namespace quern::internal {

/// One object of a document. A key whose value is null counts as missing, as in Python's configurations, save where
/// given() asks. Errors begin with `where` and name the key with the objects it lies in ("text_config.head_dim").
class HuggingFaceKeys {
 public:
  HuggingFaceKeys(const nlohmann::ordered_json& object, std::string where) : object_(&object), where_(std::move(where)) {}

  /// Goes into an object of this one; prefix is its name.
  void enter(const nlohmann::ordered_json& object, std::string_view name) {
    object_ = &object;
    prefix_ += std::string(name) + ".";
  }

  [[nodiscard]] bool given(std::string_view key) const { return object_->contains(key); }  ///< even if null
  [[nodiscard]] bool has(std::string_view key) const { return find(key) != nullptr; }
  [[nodiscard]] const nlohmann::ordered_json* find(std::string_view key) const;
  [[nodiscard]] const nlohmann::ordered_json& object() const { return *object_; }

  std::int64_t integer(std::string_view key, std::int64_t min, std::int64_t max);
  std::int64_t integer_or(std::string_view key, std::int64_t fallback, std::int64_t min, std::int64_t max);
  double number(std::string_view key);
  double number_or(std::string_view key, double fallback);
  bool bool_or(std::string_view key, bool fallback);
  std::string string_or(std::string_view key, std::string_view fallback);
  std::vector<float> floats(std::string_view key);
  std::vector<std::string> strings(std::string_view key);
  /// The object under a key; null where it is missing.
  const nlohmann::ordered_json* object_or_null(std::string_view key);

  /// "key is value, which is not supported".
  void refuse(std::string_view key);
  void fail(const std::string& message);
  [[nodiscard]] bool failed() const { return !error_.message.empty(); }
  [[nodiscard]] const Error& error() const { return error_; }
  [[nodiscard]] std::string full(std::string_view key) const { return prefix_ + std::string(key); }
  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  void wrong(std::string_view key, std::string_view expected);
  const nlohmann::ordered_json* object_;
  std::string where_, prefix_;
  Error error_{ErrorCode::bad_input, ""};
};

}  // namespace quern::internal
