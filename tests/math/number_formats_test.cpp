// Scalar conversions of bf16 and binary16, over every 16-bit pattern and at the edges of rounding.
#include "math/number_formats.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace quern {
namespace {

/// The value of a 16-bit float with these field widths, straight from the IEEE definition. NaN aside.
double decode(std::uint32_t bits, int exponent_bits, int fraction_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>((bits >> fraction_bits) & ((1U << exponent_bits) - 1U));
  const double fraction = std::ldexp(static_cast<double>(bits & ((1U << fraction_bits) - 1U)), -fraction_bits);
  const double sign = (bits >> 15) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return sign * std::numeric_limits<double>::infinity();
  return exponent == 0 ? sign * std::ldexp(fraction, 1 - bias) : sign * std::ldexp(1.0 + fraction, exponent - bias);
}

bool is_nan(std::uint32_t bits, int fraction_bits) {
  const std::uint32_t infinity = (0x7FFFU >> fraction_bits) << fraction_bits;
  return (bits & 0x7FFFU) > infinity;
}

TEST(NumberFormats, EveryPatternRoundTrips) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const float from_half = float_from_f16(pattern);
    const float from_brain = float_from_bf16({pattern});
    if (is_nan(bits, 10)) {
      EXPECT_TRUE(std::isnan(from_half));
      EXPECT_TRUE(is_nan(f16_from_float(from_half), 10));
    } else {
      ASSERT_EQ(static_cast<double>(from_half), decode(bits, 5, 10));
      ASSERT_EQ(f16_from_float(from_half), pattern);
    }
    if (is_nan(bits, 7)) {
      EXPECT_TRUE(std::isnan(from_brain));
      EXPECT_TRUE(is_nan(bf16_from_float(from_brain).bits, 7));
    } else {
      ASSERT_EQ(static_cast<double>(from_brain), decode(bits, 8, 7));
      ASSERT_EQ(bf16_from_float(from_brain).bits, pattern);
    }
  }
}

/// Between neighbours a < b: below the middle gives a, above it b, the middle the even one.
template <class From, class To>
void check_rounding(std::uint32_t first, std::uint32_t last, const From& from, const To& to) {
  for (std::uint32_t bits = first; bits < last; ++bits) {
    const double low = from(bits), high = from(bits + 1);
    const auto middle = static_cast<float>(0.5 * (low + high));
    ASSERT_EQ(static_cast<double>(middle), 0.5 * (low + high));
    const std::uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(to(middle), even);
    ASSERT_EQ(to(std::nextafterf(middle, 0.0F)), bits);
    ASSERT_EQ(to(std::nextafterf(middle, std::numeric_limits<float>::infinity())), bits + 1);
    ASSERT_EQ(to(-middle), even | 0x8000U);
  }
}

TEST(NumberFormats, RoundsToNearestEven) {
  check_rounding(
      0, 0x7BFF, [](std::uint32_t b) { return decode(b, 5, 10); }, [](float x) { return f16_from_float(x); });
  check_rounding(
      1, 0x7F7E, [](std::uint32_t b) { return decode(b, 8, 7); }, [](float x) { return bf16_from_float(x).bits; });
}

TEST(NumberFormats, Overflow) {
  EXPECT_EQ(f16_from_float(65504.0F), 0x7BFF);
  EXPECT_EQ(f16_from_float(65519.996F), 0x7BFF);
  EXPECT_EQ(f16_from_float(65520.0F), 0x7C00);
  EXPECT_EQ(f16_from_float(-std::numeric_limits<float>::infinity()), 0xFC00);
  EXPECT_EQ(bf16_from_float(std::numeric_limits<float>::max()).bits, 0x7F80);
  EXPECT_EQ(bf16_from_float(-std::numeric_limits<float>::infinity()).bits, 0xFF80);
}

// A NaN whose payload lies in the bits that go must not turn into infinity.
TEST(NumberFormats, NanStaysNan) {
  for (const std::uint32_t bits : {0x7F800001U, 0xFF800001U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
    const auto nan = std::bit_cast<float>(bits);
    EXPECT_TRUE(is_nan(f16_from_float(nan), 10));
    EXPECT_TRUE(is_nan(bf16_from_float(nan).bits, 7));
    EXPECT_EQ(bf16_from_float(nan).bits >> 15, bits >> 31);
    EXPECT_EQ(f16_from_float(nan) >> 15, static_cast<int>(bits >> 31));
  }
}

}  // namespace
}  // namespace quern
