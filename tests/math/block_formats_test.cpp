// GGUF's table of formats: ids, names and sizes, and the byte counts computed from them.
#include "math/block_formats.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string_view>

namespace quern {
namespace {

struct Row {
  std::uint32_t id;
  std::string_view name;
  std::int64_t elements, bytes;
  double bits;
};

// As the format's own documentation lists them.
constexpr Row kRows[] = {
    {0, "F32", 1, 4, 32},
    {1, "F16", 1, 2, 16},
    {2, "Q4_0", 32, 18, 4.5},
    {3, "Q4_1", 32, 20, 5},
    {6, "Q5_0", 32, 22, 5.5},
    {7, "Q5_1", 32, 24, 6},
    {8, "Q8_0", 32, 34, 8.5},
    {10, "Q2_K", 256, 84, 2.625},
    {11, "Q3_K", 256, 110, 3.4375},
    {12, "Q4_K", 256, 144, 4.5},
    {13, "Q5_K", 256, 176, 5.5},
    {14, "Q6_K", 256, 210, 6.5625},
    {16, "IQ2_XXS", 256, 66, 2.0625},
    {17, "IQ2_XS", 256, 74, 2.3125},
    {18, "IQ3_XXS", 256, 98, 3.0625},
    {19, "IQ1_S", 256, 50, 1.5625},
    {20, "IQ4_NL", 32, 18, 4.5},
    {21, "IQ3_S", 256, 110, 3.4375},
    {22, "IQ2_S", 256, 82, 2.5625},
    {23, "IQ4_XS", 256, 136, 4.25},
    {24, "I8", 1, 1, 8},
    {25, "I16", 1, 2, 16},
    {26, "I32", 1, 4, 32},
    {27, "I64", 1, 8, 64},
    {28, "F64", 1, 8, 64},
    {29, "IQ1_M", 256, 56, 1.75},
    {30, "BF16", 1, 2, 16},
    {34, "TQ1_0", 256, 54, 1.6875},
    {35, "TQ2_0", 256, 66, 2.0625},
    {39, "MXFP4", 32, 17, 4.25},
};

TEST(BlockFormats, TheTableIsGgufs) {
  ASSERT_EQ(block_formats().size(), std::size(kRows));
  for (std::size_t i = 0; i < std::size(kRows); ++i) {
    const Row& row = kRows[i];
    const BlockFormat& format = block_formats()[i];
    SCOPED_TRACE(row.name);
    EXPECT_EQ(static_cast<std::uint32_t>(format.type), row.id);
    EXPECT_EQ(format.name, row.name);
    EXPECT_EQ(format.block_elements, row.elements);
    EXPECT_EQ(format.block_bytes, row.bytes);
    EXPECT_EQ(format.bits_per_element(), row.bits);
    EXPECT_EQ(format.quantized, row.elements > 1);
    EXPECT_EQ(find_block_format(row.id), &format);
    EXPECT_EQ(find_block_format(row.name), &format);
    EXPECT_EQ(&block_format(format.type), &format);
  }
}

TEST(BlockFormats, UnknownRemovedAndActivationIdsAreNoFormats) {
  std::size_t known = 0;
  for (std::uint32_t id = 0; id < 1000; ++id) known += find_block_format(id) != nullptr ? 1 : 0;
  EXPECT_EQ(known, std::size(kRows));
  for (const std::uint32_t id : {4U, 5U, 9U, 15U, 31U, 33U, 36U, 38U, 40U, 255U, 256U, 0x80000000U, 0xFFFFFFFFU}) {
    EXPECT_EQ(find_block_format(id), nullptr) << id;
  }
}

TEST(BlockFormats, NamesAreFoundInEitherCase) {
  EXPECT_EQ(find_block_format("q4_k"), &block_format(ElementType::q4_k));
  EXPECT_EQ(find_block_format("Iq2_xXs"), &block_format(ElementType::iq2_xxs));
  for (const std::string_view name : {"", "Q4", "Q4_K_M", "Q4_K ", "Q8_1", "f33"}) {
    EXPECT_EQ(find_block_format(name), nullptr) << name;
  }
}

TEST(BlockFormats, BytesOfWholeBlocksOnly) {
  EXPECT_EQ(bytes_of(ElementType::q4_k, 0), 0U);
  EXPECT_EQ(bytes_of(ElementType::q4_k, 4096), 2304U);
  EXPECT_EQ(bytes_of(ElementType::mxfp4, 2880), 1530U);
  EXPECT_EQ(bytes_of(ElementType::f32, 7), 28U);
  EXPECT_EQ(bytes_of(ElementType::q4_k, 255), std::nullopt);
  EXPECT_EQ(bytes_of(ElementType::q4_k, 128), std::nullopt);
  EXPECT_EQ(bytes_of(ElementType::q8_0, 33), std::nullopt);
  EXPECT_EQ(bytes_of(ElementType::q8_0, -32), std::nullopt);
  EXPECT_EQ(bytes_of(ElementType::f32, -1), std::nullopt);
}

TEST(BlockFormats, BytesOfReportsOverflow) {
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(bytes_of(ElementType::i8, kMax), static_cast<std::size_t>(kMax));
  EXPECT_EQ(bytes_of(ElementType::f16, kMax), static_cast<std::size_t>(kMax) * 2);
  EXPECT_EQ(bytes_of(ElementType::f32, kMax), std::nullopt);
  EXPECT_EQ(bytes_of(ElementType::f32, std::int64_t{1} << 62), std::nullopt);
  EXPECT_EQ(bytes_of(ElementType::f32, (std::int64_t{1} << 62) - 1), 0xFFFFFFFFFFFFFFFCU);
  EXPECT_EQ(bytes_of(ElementType::f64, std::int64_t{1} << 61), std::nullopt);
  EXPECT_EQ(bytes_of(ElementType::q8_0, kMax - 31), 0x8800000000000000U - 34U);  // 2^58 - 1 blocks of 34
}

}  // namespace
}  // namespace quern
