// The number formats that buffers hold. Plain data only: instruction-set files include this header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quern {

/// Storage of one bfloat16: the upper 16 bits of an IEEE binary32. Conversions are in number_formats.hpp.
struct bf16 {
  std::uint16_t bits;
};

/// Element type of a buffer. The values are GGUF's type ids; block_formats.hpp says what the block-quantized ones hold.
enum class ElementType : std::uint8_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39
};

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
