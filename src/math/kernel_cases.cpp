#include "math/kernel_cases_internal.hpp"

#include "math/number_formats.hpp"

namespace quern {

std::vector<KernelCase> kernel_cases(const Backend& backend) {
  std::vector<KernelCase> all = internal::matmul_cases();
  for (auto more : {internal::block_dot_cases(backend), internal::attention_cases(), internal::row_cases()}) {
    for (KernelCase& one : more) all.push_back(std::move(one));
  }
  return all;
}

namespace internal {

Result<AlignedBuffer> value_buffer(ElementType type, std::int64_t count) {
  auto buffer = AlignedBuffer::allocate(static_cast<std::size_t>(count) * (type == ElementType::bf16 ? 2 : 4));
  if (!buffer) return buffer;
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    const float value = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
    if (type == ElementType::bf16) {
      buffer->as<bf16>()[i] = bf16_from_float(value);
    } else {
      buffer->as<float>()[i] = value;
    }
  }
  return buffer;
}

}  // namespace internal

}  // namespace quern
