#include "support/gguf_builder.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace quern {

std::string GgufBuilder::bytes_of_text(std::string_view text) {
  return bytes_of_number(std::uint64_t{text.size()}) + std::string(text);
}

std::string GgufBuilder::array_head(std::uint32_t element_type, std::uint64_t count) {
  return bytes_of_number(element_type) + bytes_of_number(count);
}

GgufBuilder& GgufBuilder::raw(std::string_view key, std::uint32_t type, std::string_view value_bytes) {
  entries_ += bytes_of_text(key) + bytes_of_number(type) + std::string(value_bytes);
  ++entry_count_;
  return *this;
}

GgufBuilder& GgufBuilder::u32(std::string_view key, std::uint32_t value) {
  return raw(key, gguf::kU32, bytes_of_number(value));
}

GgufBuilder& GgufBuilder::f32(std::string_view key, float value) { return raw(key, gguf::kF32, bytes_of_number(value)); }

GgufBuilder& GgufBuilder::boolean(std::string_view key, bool value) {
  return raw(key, gguf::kBool, bytes_of_number(static_cast<std::uint8_t>(value)));
}

GgufBuilder& GgufBuilder::text(std::string_view key, std::string_view value) {
  return raw(key, gguf::kString, bytes_of_text(value));
}

GgufBuilder& GgufBuilder::texts(std::string_view key, const std::vector<std::string>& values) {
  std::string bytes = array_head(gguf::kString, values.size());
  for (const std::string& value : values) bytes += bytes_of_text(value);
  return raw(key, gguf::kArray, bytes);
}

GgufBuilder& GgufBuilder::i32s(std::string_view key, const std::vector<std::int32_t>& values) {
  std::string bytes = array_head(gguf::kI32, values.size());
  for (const std::int32_t value : values) bytes += bytes_of_number(value);
  return raw(key, gguf::kArray, bytes);
}

GgufBuilder& GgufBuilder::f32s(std::string_view key, const std::vector<float>& values) {
  std::string bytes = array_head(gguf::kF32, values.size());
  for (const float value : values) bytes += bytes_of_number(value);
  return raw(key, gguf::kArray, bytes);
}

GgufBuilder& GgufBuilder::bools(std::string_view key, const std::vector<bool>& values) {
  std::string bytes = array_head(gguf::kBool, values.size());
  for (const bool value : values) bytes += value ? '\1' : '\0';
  return raw(key, gguf::kArray, bytes);
}

GgufBuilder& GgufBuilder::tensor(std::string_view name, std::uint32_t type, std::vector<std::int64_t> shape,
                                 std::string data, std::optional<std::uint64_t> offset) {
  const std::uint64_t at = offset.value_or(next_offset_);
  next_offset_ = (at + data.size() + alignment_ - 1) / alignment_ * alignment_;
  tensors_.push_back({std::string(name), type, std::move(shape), std::move(data), at});
  return *this;
}

GgufBuilder& GgufBuilder::f32_tensor(std::string_view name, std::vector<std::int64_t> shape, std::span<const float> values) {
  return tensor(name, 0, std::move(shape), {reinterpret_cast<const char*>(values.data()), values.size_bytes()});
}

GgufBuilder& GgufBuilder::magic(std::string_view four_bytes) {
  magic_ = four_bytes;
  return *this;
}

GgufBuilder& GgufBuilder::version(std::uint32_t version) {
  version_ = version;
  return *this;
}

GgufBuilder& GgufBuilder::place_at(std::size_t alignment) {
  alignment_ = alignment;
  return *this;
}

GgufBuilder& GgufBuilder::tensor_count(std::uint64_t count) {
  said_tensors_ = count;
  return *this;
}

GgufBuilder& GgufBuilder::entry_count(std::uint64_t count) {
  said_entries_ = count;
  return *this;
}

std::string GgufBuilder::build_text() const {
  std::string file = magic_ + bytes_of_number(version_) + bytes_of_number(said_tensors_.value_or(tensors_.size())) +
                     bytes_of_number(said_entries_.value_or(entry_count_)) + entries_;
  for (const Tensor& tensor : tensors_) {
    file += bytes_of_text(tensor.name) + bytes_of_number(static_cast<std::uint32_t>(tensor.shape.size()));
    for (const std::int64_t size : tensor.shape) file += bytes_of_number(size);
    file += bytes_of_number(tensor.type) + bytes_of_number(tensor.offset);
  }
  if (tensors_.empty()) return file;
  const std::size_t start = (file.size() + alignment_ - 1) / alignment_ * alignment_;
  for (const Tensor& tensor : tensors_) {
    // Data of a wild offset stay out of the file.
    if (tensor.offset > (std::uint64_t{1} << 24)) continue;
    const std::size_t at = start + static_cast<std::size_t>(tensor.offset);
    file.resize(std::max(file.size(), at + tensor.data.size()), '\0');
    std::copy(tensor.data.begin(), tensor.data.end(), file.begin() + static_cast<std::ptrdiff_t>(at));
  }
  return file;
}

std::vector<std::byte> GgufBuilder::build() const {
  const std::string text = build_text();
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

}  // namespace quern
