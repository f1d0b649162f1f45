#include "model/safetensors_header.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "model/gguf_values.hpp"

namespace quern::internal {
namespace {

using Json = nlohmann::json;

/// More than any tensor has; keeps a hostile shape from taking memory.
constexpr std::size_t kMaxDimensions = 16;

/// Receives the parser's events and knows at each where in the header it is.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override { return unexpected(fmt::format("{}", value)); }
  bool number_float(number_float_t, const string_t& text) override { return unexpected(shown(text)); }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::shape) {
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        return fail(fmt::format("{}: a size in shape must be below 2^63, found {}", subject(), value));
      }
      if (entry_.shape.size() == kMaxDimensions) {
        return fail(fmt::format("{}: shape must have at most {} sizes", subject(), kMaxDimensions));
      }
      entry_.shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (place_ == Place::offsets) {
      if (offsets_ == 2) return fail(fmt::format("{}: data_offsets must hold two numbers, found more", subject()));
      (offsets_ == 0 ? entry_.begin : entry_.end) = value;
      ++offsets_;
      return true;
    }
    return unexpected(fmt::format("{}", value));
  }

  bool string(string_t& text) override {
    if (place_ == Place::metadata_value) {
      header_.metadata.emplace_back(key_, text);
      place_ = Place::metadata;
      return true;
    }
    if (place_ == Place::dtype_value) {
      entry_.dtype = text;
      place_ = Place::tensor;
      return true;
    }
    return unexpected(fmt::format("\"{}\"", shown(text)));
  }

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::start:
        place_ = Place::top;
        return true;
      case Place::tensor_value:
        place_ = Place::tensor;
        entry_ = {};
        entry_.name = name_;
        has_dtype_ = has_shape_ = has_offsets_ = false;
        return true;
      case Place::metadata_object:
        place_ = Place::metadata;
        return true;
      default:
        return unexpected("an object");
    }
  }

  bool end_object() override {
    if (place_ == Place::tensor) {
      const std::string_view lacks = !has_dtype_ ? "dtype" : !has_shape_ ? "shape" : !has_offsets_ ? "data_offsets" : "";
      if (!lacks.empty()) return fail(fmt::format("{}: key {} is missing", subject(), lacks));
      header_.tensors.push_back(std::move(entry_));
    }
    place_ = place_ == Place::top ? Place::end : Place::top;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::shape_value) {
      place_ = Place::shape;
    } else if (place_ == Place::offsets_value) {
      place_ = Place::offsets;
      offsets_ = 0;
    } else {
      return unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::offsets && offsets_ != 2) {
      return fail(fmt::format("{}: data_offsets must hold two numbers, found {}", subject(), offsets_));
    }
    place_ = Place::tensor;
    return true;
  }

  bool key(string_t& name) override {
    if (place_ == Place::top) {
      if (!names_.insert(name).second) return fail(fmt::format("tensor {} is there twice", shown(name)));
      name_ = name;
      place_ = name == "__metadata__" ? Place::metadata_object : Place::tensor_value;
      return true;
    }
    if (place_ == Place::metadata) {
      if (!metadata_keys_.insert(name).second) {
        return fail(fmt::format("__metadata__: key {} is there twice", shown(name)));
      }
      key_ = name;
      place_ = Place::metadata_value;
      return true;
    }
    if (name == "dtype") return begin_field(name, has_dtype_, Place::dtype_value);
    if (name == "shape") return begin_field(name, has_shape_, Place::shape_value);
    if (name == "data_offsets") return begin_field(name, has_offsets_, Place::offsets_value);
    return fail(fmt::format("{}: key {} is not known", subject(), shown(name)));
  }

  bool parse_error(std::size_t position, const std::string&, const Json::exception&) override {
    return fail(fmt::format("the header's JSON text is malformed at byte {}", position));
  }

  [[nodiscard]] const std::string& fault() const { return fault_; }
  SafetensorsHeader& header() { return header_; }

 private:
  enum class Place {
    start,
    top,  // expecting a tensor's name
    tensor_value,
    tensor,  // expecting dtype, shape or data_offsets
    dtype_value,
    shape_value,
    shape,
    offsets_value,
    offsets,
    metadata_object,
    metadata,
    metadata_value,
    end
  };

  [[nodiscard]] std::string subject() const { return "tensor " + shown(name_); }
  bool fail(std::string message) {
    fault_ = std::move(message);
    return false;
  }
  bool begin_field(const std::string& field, bool& seen, Place next) {
    if (seen) return fail(fmt::format("{}: key {} is there twice", subject(), field));
    seen = true;
    place_ = next;
    return true;
  }
  bool unexpected(const std::string& found) {
    switch (place_) {
      case Place::start:
        return fail(fmt::format("the header must be a JSON object, found {}", found));
      case Place::tensor_value:
        return fail(fmt::format("{}: expected an object, found {}", subject(), found));
      case Place::dtype_value:
        return fail(fmt::format("{}: dtype must be a string, found {}", subject(), found));
      case Place::shape_value:
        return fail(fmt::format("{}: shape must be an array of sizes, found {}", subject(), found));
      case Place::shape:
        return fail(fmt::format("{}: a size in shape must be a whole number, found {}", subject(), found));
      case Place::offsets_value:
      case Place::offsets:
        return fail(fmt::format("{}: data_offsets must be two whole numbers, found {}", subject(), found));
      case Place::metadata_object:
        return fail(fmt::format("__metadata__ must be an object, found {}", found));
      default:
        return fail(fmt::format("__metadata__: key {} must be a string, found {}", shown(key_), found));
    }
  }

  Place place_ = Place::start;
  SafetensorsHeader header_;
  SafetensorsHeaderEntry entry_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int offsets_ = 0;
  std::string name_, key_, fault_;
  std::unordered_set<std::string> names_, metadata_keys_;
};

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::string_view text, std::string_view where) {
  HeaderReader reader;
  if (!Json::sax_parse(text, &reader)) {
    return bad_input(fmt::format("{}: {}", where, reader.fault().empty() ? "the header is malformed" : reader.fault()));
  }
  return std::move(reader.header());
}

}  // namespace quern::internal
