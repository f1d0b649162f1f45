// Scalar conversions between f32 and the 16-bit formats, for the front's edges and the Eigen backend.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "math/element_type.hpp"

namespace quern::internal {

[[nodiscard]] inline float widen(bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }

/// To nearest, ties to even; NaN stays NaN.
[[nodiscard]] inline bf16 narrow(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};
  return {static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

/// IEEE binary16, exact.
[[nodiscard]] inline float widen_f16(std::uint16_t half) {
  const int exponent = (half >> 10) & 0x1f;
  const auto mantissa = static_cast<std::uint32_t>(half & 0x3ff);
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  if (exponent == 0) {
    const float tiny = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -tiny : tiny;
  }
  const std::uint32_t biased = exponent == 31 ? 255U : static_cast<std::uint32_t>(exponent + 112);
  return std::bit_cast<float>(sign | (biased << 23) | (mantissa << 13));
}

/// Element i of a buffer of any type.
[[nodiscard]] inline float element(const void* data, ElementType type, std::int64_t i) {
  switch (type) {
    case ElementType::bf16:
      return widen(static_cast<const bf16*>(data)[i]);
    case ElementType::f16:
      return widen_f16(static_cast<const std::uint16_t*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

inline void set_element(void* data, ElementType type, std::int64_t i, float value) {
  if (type == ElementType::bf16) {
    static_cast<bf16*>(data)[i] = narrow(value);
  } else {
    static_cast<float*>(data)[i] = value;
  }
}

}  // namespace quern::internal
