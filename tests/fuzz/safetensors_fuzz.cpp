// Safetensors files: any bytes as an image. What is accepted is touched to its last byte.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "model/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = quern::SafetensorsFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!file) return 0;
  std::size_t covered = 0;
  for (const quern::SafetensorsTensor& tensor : file->tensors()) {
    covered += tensor.data.size();
    if (!tensor.data.empty()) {
      const auto* const bytes = reinterpret_cast<const volatile unsigned char*>(tensor.data.data());
      (void)bytes[0];
      (void)bytes[tensor.data.size() - 1];
    }
    if (file->find(tensor.name) != &tensor) std::abort();
  }
  if (covered > size) std::abort();
  return 0;
}
