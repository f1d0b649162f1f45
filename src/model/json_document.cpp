#include "model/json_document.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <unordered_set>
#include <utility>
#include <vector>

#include "model/gguf_values.hpp"

namespace quern::internal {
namespace {

using Json = nlohmann::ordered_json;

/// Many times what any published file has; a document is built and freed level by level.
constexpr std::size_t kMaxDepth = 64;

/// Watches a document for what the parser would let pass. Receives its events and builds nothing.
class Watcher : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool key(string_t& name) override {
    if (levels_.back().insert(name).second) return true;
    fault_ = fmt::format("key \"{}\" is there twice", shown(name));
    return false;
  }
  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    fault_ = fmt::format("the JSON text is malformed at byte {}", position);
    return false;
  }
  [[nodiscard]] const std::string& fault() const { return fault_; }

 private:
  bool enter() {
    if (levels_.size() == kMaxDepth) {
      fault_ = fmt::format("the JSON text is nested more than {} levels deep", kMaxDepth);
      return false;
    }
    levels_.emplace_back();
    return true;
  }
  bool leave() {
    levels_.pop_back();
    return true;
  }
  std::vector<std::unordered_set<std::string>> levels_;
  std::string fault_;
};

}  // namespace

Result<Json> parse_json_document(std::string_view text, std::string_view where) {
  Watcher watcher;
  if (!Json::sax_parse(text, &watcher)) {
    return bad_input(fmt::format("{}: {}", where, watcher.fault().empty() ? "the JSON text is malformed" : watcher.fault()));
  }
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return bad_input(fmt::format("{}: expected a JSON object, found {}", where, json_kind(json)));
  return json;
}

std::string_view json_kind(const Json& value) {
  if (value.is_number_integer()) return "an integer";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  if (value.is_boolean()) return "a boolean";
  if (value.is_null()) return "null";
  if (value.is_array()) return "an array";
  return value.is_object() ? "an object" : "no JSON";
}

}  // namespace quern::internal
