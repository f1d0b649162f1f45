// A place in a JSON file that is not trusted: fields are asked for by name, and an error says where what was expected.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"
#include "math/sample_statistics.hpp"

namespace quern::tools {

/// A view: the JSON must outlive it. Errors are bad_input, "WHERE.KEY: expected ...".
class JsonPlace {
 public:
  JsonPlace(const nlohmann::ordered_json& json, std::string where) : json_(&json), where_(std::move(where)) {}

  [[nodiscard]] tl::unexpected<Error> wrong(std::string_view key, std::string_view expected) const;
  [[nodiscard]] bool has(const char* key) const { return json_->is_object() && json_->contains(key); }

  [[nodiscard]] Result<double> number(const char* key) const;
  /// At most 200 bytes without control characters, since it is printed.
  [[nodiscard]] Result<std::string> text(const char* key) const;
  [[nodiscard]] Result<bool> boolean(const char* key) const;
  [[nodiscard]] Result<std::vector<double>> numbers(const char* key) const;
  /// What summary_json() made.
  [[nodiscard]] Result<Summary> summary(const char* key) const;
  [[nodiscard]] Result<JsonPlace> object(const char* key) const;
  /// A list of objects.
  [[nodiscard]] Result<std::vector<JsonPlace>> list(const char* key) const;
  /// The names of an object's fields, those of text() among them only.
  [[nodiscard]] std::vector<std::string> keys() const;

 private:
  const nlohmann::ordered_json* json_;
  std::string where_;
};

}  // namespace quern::tools
