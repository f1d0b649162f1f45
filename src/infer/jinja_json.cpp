#include "infer/jinja_json.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace quern::jinja {

namespace {

/// Receives the parser's events. The parser itself is not recursive, so that depth is bounded here alone.
class Reader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Reader(Heap& heap) : heap_(heap) {}

  [[nodiscard]] Value root() const { return root_; }
  [[nodiscard]] const std::string& error() const { return error_; }

  bool null() override { return add(Value::none()); }
  bool boolean(bool value) override { return add(Value::boolean(value)); }
  bool number_integer(std::int64_t value) override { return add(Value::integer(value)); }
  bool number_unsigned(std::uint64_t value) override {
    if (value > static_cast<std::uint64_t>(INT64_MAX))
      return refuse("the integer " + std::to_string(value) + " exceeds 64 bits");
    return add(Value::integer(static_cast<std::int64_t>(value)));
  }
  bool number_float(double value, const std::string& text) override {
    // An integer too long for the parser's own types arrives here.
    if (text.find_first_of(".eE") == std::string::npos)
      return refuse("the integer " + text.substr(0, 30) + " exceeds 64 bits");
    return add(Value::floating(value));
  }
  bool string(std::string& value) override { return add(heap_.make_string(value)); }
  bool binary(nlohmann::json::binary_t& /*value*/) override { return refuse("binary values are not JSON"); }

  bool start_object(std::size_t /*size*/) override { return open(Value::dict(heap_.make_dict())); }
  bool start_array(std::size_t /*size*/) override { return open(Value::sequence(Kind::list, heap_.make_sequence())); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& value) override {
    keys_.back() = heap_.make_string(value);
    return true;
  }
  bool parse_error(std::size_t position, const std::string& /*token*/, const nlohmann::json::exception& /*why*/) override {
    if (error_.empty()) error_ = "not valid JSON (byte " + std::to_string(position) + ")";
    return false;
  }

 private:
  bool refuse(std::string why) {
    error_ = std::move(why);
    return false;
  }

  bool add(const Value& value) {
    heap_.work();
    if (open_.empty()) {
      root_ = value;
    } else if (open_.back().is(Kind::dict)) {
      open_.back().as_dict()->set(keys_.back(), value);
    } else {
      open_.back().as_sequence()->items.push_back(value);
    }
    return true;
  }

  bool open(const Value& value) {
    if (open_.size() >= static_cast<std::size_t>(kValueDepth)) return refuse("values are nested too deeply");
    if (!add(value)) return false;
    open_.push_back(value);
    keys_.emplace_back();
    return true;
  }

  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  Heap& heap_;
  Value root_;
  std::vector<Value> open_;  ///< lists and dicts not yet closed
  std::vector<Value> keys_;  ///< of each, the key read last
  std::string error_;
};

}  // namespace

Value read_json(Heap& heap, std::string_view text) {
  Reader reader(heap);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &reader)) throw Failure{reader.error()};
  return reader.root();
}

}  // namespace quern::jinja
