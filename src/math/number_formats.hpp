// Conversions between f32 and the 16-bit formats, one number at a time, for code outside the instruction-set files.
#pragma once

#include <bit>
#include <cstdint>

#include "math/element_type.hpp"

namespace quern {

/// Exact.
[[nodiscard]] constexpr float float_from_bf16(bf16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

/// Rounds to nearest, ties to even; too large becomes infinite; NaN stays a (quiet) NaN of the same sign.
[[nodiscard]] constexpr bf16 bf16_from_float(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<std::uint16_t>((bits >> 16) | 0x40U)};
  return {static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}

/// The value of the IEEE binary16 number with these bits. Exact.
[[nodiscard]] constexpr float float_from_f16(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t fraction = bits & 0x3FFU;
  if (exponent == 0x1FU) return std::bit_cast<float>(sign | 0x7F800000U | (fraction << 13));  // infinity and NaN
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;  // zero and subnormals
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

/// Bits of `x` as IEEE binary16: nearest, ties to even; too large becomes infinite; NaN stays a (quiet) NaN.
[[nodiscard]] constexpr std::uint16_t f16_from_float(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  const auto with_sign = [sign](std::uint32_t half) { return static_cast<std::uint16_t>(half | sign); };
  if (magnitude > 0x7F800000U) return with_sign(0x7E00U | ((magnitude >> 13) & 0x3FFU));
  if (magnitude >= 0x477FF000U) return with_sign(0x7C00U);  // from 65520 on the nearest is infinity
  if (magnitude >= 0x38800000U) {                           // normal from 2^-14 on
    return with_sign((magnitude - 0x38000000U + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13);
  }
  // Subnormal: adding 1/2 puts the unit of binary16's subnormals (2^-24) at the last place of an f32, which rounds.
  const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
  return with_sign(std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U);
}

}  // namespace quern
