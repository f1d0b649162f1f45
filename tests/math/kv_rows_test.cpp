// Rows of KV caches against the formats' definitions and error models.
#include "math/kv_rows.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "math/number_formats.hpp"
#include "support/attention_reference.hpp"

namespace quern {
namespace {

std::vector<double> stored(ElementType type, const std::vector<float>& row) {
  const auto elements = static_cast<std::int64_t>(row.size());
  // One byte off any alignment, with a guard behind.
  std::vector<std::byte> bytes(kv_row_bytes(type, elements) + 2, std::byte{0xA5});
  write_kv_row(type, row.data(), elements, bytes.data() + 1);
  EXPECT_EQ(bytes.front(), std::byte{0xA5});
  EXPECT_EQ(bytes.back(), std::byte{0xA5});
  return reference_kv_row(type, bytes.data() + 1, elements);
}

TEST(KvRows, Names) {
  ASSERT_EQ(kv_types().size(), 5U);
  for (const ElementType type : kv_types()) EXPECT_EQ(kv_type_named(kv_type_name(type)), type);
  EXPECT_EQ(kv_type_named("q8_0"), ElementType::q8_0);
  EXPECT_FALSE(kv_type_named("q4_k"));
  EXPECT_FALSE(kv_type_named(""));
  EXPECT_EQ(kv_type_name(ElementType::q4_k), "");
  EXPECT_EQ(kv_block_elements(ElementType::q4_k), 0);
}

TEST(KvRows, Sizes) {
  EXPECT_EQ(kv_row_bytes(ElementType::f32, 5), 20U);
  EXPECT_EQ(kv_row_bytes(ElementType::f16, 5), 10U);
  EXPECT_EQ(kv_row_bytes(ElementType::bf16, 5), 10U);
  EXPECT_EQ(kv_row_bytes(ElementType::q8_0, 64), 68U);
  EXPECT_EQ(kv_row_bytes(ElementType::q4_0, 64), 36U);
}

TEST(KvRows, EqualTypesKeepTheirBits) {
  std::vector<float> f32(33);
  std::vector<bf16> b16(33);
  for (std::size_t i = 0; i < f32.size(); ++i) {
    const auto bits = static_cast<std::uint32_t>(0x7F800001U + i * 0x01234567U);  // NaNs among them
    std::memcpy(&f32[i], &bits, 4);
    b16[i].bits = static_cast<std::uint16_t>(0x7F81U + i * 0x0123U);
  }
  std::vector<std::byte> to(33 * 4);
  write_kv_row(ElementType::f32, f32.data(), 33, to.data());
  EXPECT_EQ(0, std::memcmp(to.data(), f32.data(), 33 * 4));
  write_kv_row(ElementType::bf16, b16.data(), 33, to.data());
  EXPECT_EQ(0, std::memcmp(to.data(), b16.data(), 33 * 2));
}

TEST(KvRows, ErrorsStayWithinTheFormats) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const float magnitude : {1e-9F, 1e-6F, 1e-3F, 1.0F, 1e3F, 2e4F}) {
    std::vector<float> row(320);
    for (float& x : row) x = std::clamp(normal(random), -3.0F, 3.0F) * magnitude;
    const auto top_of_block = [&](std::size_t i) {
      double top = 0.0;
      for (std::size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j) top = std::max(top, std::abs(double{row[j]}));
      return top;
    };
    for (const ElementType type : kv_types()) {
      const std::vector<double> read = stored(type, row);
      bool any = false;
      for (std::size_t i = 0; i < row.size(); ++i) {
        const double x = double{row[i]};
        double bound = 0.0;
        if (type == ElementType::f16) bound = std::max(std::abs(x) * 0x1p-11, 0x1p-25);
        if (type == ElementType::bf16) bound = std::abs(x) * 0x1p-8;
        // The last terms: rounding of the scaled numbers to f32 before the code is chosen.
        if (type == ElementType::q8_0) bound = top_of_block(i) * (1.0 / 254 + 0x1p-11 + 0x1p-22) + 127 * 0x1p-25;
        if (type == ElementType::q4_0) {
          bound = top_of_block(i) * (1.0 / 16 + 0x1p-11 + 0x1p-22) + 8 * 0x1p-25;
          // No code stands for +8 d where -8 d is the extreme.
          if (std::abs(x) > top_of_block(i) * (7.5 / 8)) bound += top_of_block(i) / 16;
        }
        ASSERT_LE(std::abs(read[i] - x), bound) << kv_type_name(type) << ", element " << i << ", " << x;
        any = any || std::abs(read[i] - x) > bound / 4;
      }
      // A bound that holds but is far off would be that of another format. (Tiny numbers vanish in all but f32 and bf16.)
      const bool expected = type != ElementType::f32 && magnitude > 1e-4F;
      EXPECT_TRUE(any || !expected) << kv_type_name(type);
    }
  }
}

TEST(KvRows, Bf16AndF32SourcesAgree) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<bf16> half(96);
  std::vector<float> whole(96);
  for (std::size_t i = 0; i < half.size(); ++i) {
    half[i] = bf16_from_float(normal(random));
    whole[i] = float_from_bf16(half[i]);
  }
  for (const ElementType type : kv_types()) {
    std::vector<std::byte> a(kv_row_bytes(type, 96));
    std::vector<std::byte> b(a.size());
    write_kv_row(type, half.data(), 96, a.data());
    write_kv_row(type, whole.data(), 96, b.data());
    EXPECT_EQ(a, b) << kv_type_name(type);
  }
}

// By hand: 0 .. 31 less 16 has its extreme in -16, so q4_0's d is 2 and codes are x / 2 + 8, ties upwards; q8_0's is 16/127.
TEST(KvRows, BlocksAsWrittenByHand) {
  std::vector<float> row(32);
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(i) - 16.0F;
  std::array<std::byte, 18> q4{};
  write_kv_row(ElementType::q4_0, row.data(), 32, q4.data());
  const std::array<unsigned, 18> expected = {0x00, 0x40, 0x80, 0x91, 0x91, 0xA2, 0xA2, 0xB3, 0xB3,
                                             0xC4, 0xC4, 0xD5, 0xD5, 0xE6, 0xE6, 0xF7, 0xF7, 0xF8};
  for (std::size_t i = 0; i < q4.size(); ++i) EXPECT_EQ(std::to_integer<unsigned>(q4[i]), expected[i]) << "byte " << i;

  std::array<std::byte, 34> q8{};
  write_kv_row(ElementType::q8_0, row.data(), 32, q8.data());
  std::uint16_t scale = 0;
  std::memcpy(&scale, q8.data(), 2);
  EXPECT_EQ(scale, f16_from_float(16.0F / 127.0F));
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(static_cast<std::int8_t>(std::to_integer<unsigned>(q8[2 + i])),
              static_cast<int>(std::lround((static_cast<double>(i) - 16.0) * 127.0 / 16.0)))
        << "element " << i;
  }
}

TEST(KvRows, ZeroTinyAndBrokenBlocks) {
  for (const ElementType type : {ElementType::q8_0, ElementType::q4_0}) {
    for (const float tiny : {0.0F, -0.0F, 1e-38F, 1e-44F, 1e-8F}) {
      for (const double x : stored(type, std::vector<float>(32, tiny))) EXPECT_EQ(x, 0.0);
    }
    for (const float broken : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                               -std::numeric_limits<float>::infinity()}) {
      std::vector<float> row(64, 1.0F);
      row[7] = broken;
      const std::vector<double> read = stored(type, row);
      for (std::size_t i = 0; i < 64; ++i) EXPECT_EQ(std::isnan(read[i]), i < 32) << kv_type_name(type);
    }
  }
}

}  // namespace
}  // namespace quern
