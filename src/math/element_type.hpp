// The number formats that buffers hold. Plain data only: instruction-set files include this header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quern {

/// Storage of one bfloat16: the upper 16 bits of an IEEE binary32. Conversions are in number_formats.hpp.
struct bf16 {
  std::uint16_t bits;
};

/// Element type of a buffer. Block-quantized types join this list with the GGUF reader.
enum class ElementType : std::uint8_t { f32, f16, bf16 };

/// How a product is computed: f32 inputs and sums, or bf16 inputs with f32 sums.
enum class ComputeType : std::uint8_t { f32, bf16 };

/// Element-wise non-linearities of feed-forward layers.
enum class Activation : std::uint8_t {
  none,
  gelu_tanh,  ///< 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  gelu_erf,   ///< 0.5 x (1 + erf(x / sqrt 2))
  silu,       ///< x / (1 + exp(-x))
  relu2       ///< max(x, 0)^2
};

}  // namespace quern
