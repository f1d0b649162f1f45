// GGUF files: any bytes as an image. What is read is touched to its last byte, and its model's shape is worked out.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>
#include <variant>

#include "model/gguf_file.hpp"
#include "model/gguf_model.hpp"

namespace {

void touch(const void* data, std::size_t bytes) {
  const auto* const at = static_cast<const volatile unsigned char*>(data);
  if (bytes == 0) return;
  (void)at[0];
  (void)at[bytes - 1];
}

void read_all(const quern::GgufFile& file) {
  for (const quern::GgufValue& value : file.metadata()) {
    touch(value.key.data(), value.key.size());
    if (file.find(value.key) != &value) std::abort();
    if (const auto* text = std::get_if<std::string_view>(&value.value)) touch(text->data(), text->size());
    if (const auto* array = std::get_if<quern::GgufArray>(&value.value)) {
      for (const std::string_view text : array->strings) touch(text.data(), text.size());
    }
    (void)file.require_integer(value.key, 0, 100);
    (void)file.require_number(value.key);
    (void)file.bool_or(value.key, false);
    (void)file.require_string(value.key);
    (void)file.strings(value.key);
    (void)file.integers(value.key);
    (void)file.floats(value.key);
    (void)file.bools(value.key);
  }
  for (const quern::GgufTensor& tensor : file.tensors()) {
    touch(tensor.data, tensor.bytes);
    if (file.find_tensor(tensor.name) != &tensor) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = quern::GgufFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!file) return 0;
  read_all(*file);
  if (const auto config = quern::model_config_from_gguf(*file)) {
    (void)quern::bind_gguf_weights(*file, *config, quern::WeightPrecision::fast, 16);
  }
  return 0;
}
