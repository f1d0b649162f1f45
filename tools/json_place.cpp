#include "json_place.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "summary_report.hpp"

namespace quern::tools {

namespace {

using Json = nlohmann::ordered_json;

bool printable(const std::string& text) {
  const auto control = [](char letter) { return static_cast<unsigned char>(letter) < 0x20 || letter == 0x7F; };
  return text.size() <= 200 && std::none_of(text.begin(), text.end(), control);
}

}  // namespace

tl::unexpected<Error> JsonPlace::wrong(std::string_view key, std::string_view expected) const {
  return bad_input(fmt::format("{}.{}: expected {}", where_, key, expected));
}

Result<double> JsonPlace::number(const char* key) const {
  const auto value = json_->find(key);
  if (value == json_->end() || !value->is_number()) return wrong(key, "a number");
  return value->get<double>();
}

Result<std::string> JsonPlace::text(const char* key) const {
  const auto value = json_->find(key);
  if (value == json_->end() || !value->is_string()) return wrong(key, "text");
  std::string text = value->get<std::string>();
  if (!printable(text)) return wrong(key, "at most 200 bytes of text without control characters");
  return text;
}

Result<bool> JsonPlace::boolean(const char* key) const {
  const auto value = json_->find(key);
  if (value == json_->end() || !value->is_boolean()) return wrong(key, "true or false");
  return value->get<bool>();
}

Result<std::vector<double>> JsonPlace::numbers(const char* key) const {
  const auto values = json_->find(key);
  if (values == json_->end() || !values->is_array()) return wrong(key, "a list of numbers");
  std::vector<double> result;
  for (const Json& value : *values) {
    if (!value.is_number()) return wrong(key, "a list of numbers");
    result.push_back(value.get<double>());
  }
  return result;
}

Result<Summary> JsonPlace::summary(const char* key) const {
  const auto value = json_->find(key);
  return summary_from_json(value == json_->end() ? Json() : *value, fmt::format("{}.{}", where_, key));
}

Result<JsonPlace> JsonPlace::object(const char* key) const {
  const auto value = json_->find(key);
  if (value == json_->end() || !value->is_object()) return wrong(key, "an object");
  return JsonPlace(*value, fmt::format("{}.{}", where_, key));
}

Result<std::vector<JsonPlace>> JsonPlace::list(const char* key) const {
  const auto values = json_->find(key);
  if (values == json_->end() || !values->is_array()) return wrong(key, "a list");
  std::vector<JsonPlace> places;
  for (std::size_t i = 0; i < values->size(); ++i) {
    places.emplace_back((*values)[i], fmt::format("{}.{}[{}]", where_, key, i));
    if (!(*values)[i].is_object()) return bad_input(fmt::format("{}: expected an object", places.back().where_));
  }
  return places;
}

std::vector<std::string> JsonPlace::keys() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : json_->items()) {
    if (value.is_string() && printable(name)) names.push_back(name);
  }
  return names;
}

}  // namespace quern::tools
