// Int8 dot products with every block format and float dot products, on every instruction set, against double; and that an
// element's bits depend on neither its neighbours nor how many there are.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "math/block_formats.hpp"
#include "support/block_dot_support.hpp"

namespace quern {
namespace {

using namespace test;

/// Activations of `rows` rows, quantized one by one, in arrays that end where the data end.
struct Activations {
  std::vector<float> x;
  std::vector<AlignedBuffer> memory;
  std::vector<ActivationRow> rows;
  Activations(const BlockKernels& kernels, std::int64_t count, std::int64_t cols, std::mt19937& random)
      : x(random_floats(count * cols, random)) {
    for (std::int64_t t = 0; t < count; ++t) {
      memory.push_back(buffer(static_cast<std::size_t>(cols)));
      memory.push_back(buffer(static_cast<std::size_t>(cols / 32 * 4)));
      memory.push_back(buffer(static_cast<std::size_t>(cols / 16 * 2)));
      const std::size_t n = memory.size();
      rows.push_back({memory[n - 3].as<std::int8_t>(), memory[n - 2].as<float>(), memory[n - 1].as<std::int16_t>()});
      kernels.quantize_activations(x.data() + t * cols, cols, rows.back());
    }
  }
};

std::vector<float> dot(const BlockKernels& kernels, const FileWeight& w, const ActivationRow* x, std::int64_t tokens) {
  std::vector<float> out(static_cast<std::size_t>(tokens * w.rows), std::numeric_limits<float>::quiet_NaN());
  kernels.dot({.type = w.type,
               .weight = w.bytes.data(),
               .row_bytes = w.row_bytes,
               .rows = w.rows,
               .cols = w.cols,
               .x = x,
               .tokens = tokens,
               .out = out.data(),
               .out_stride = w.rows});
  return out;
}

std::vector<std::int64_t> lengths(ElementType type) {
  if (block_format(type).block_elements == 256) return {256, 512, 768, 2816};
  return {32, 64, 96, 128, 160, 192, 224, 256, 33 * 32, 2880};
}

TEST(BlockDot, MatchesDouble) {
  for (const KernelTable* table : supported_kernels()) {
    for (const ElementType type : kDotTypes) {
      ASSERT_TRUE(table->blocks->has_dot(type));
      for (const std::int64_t cols : lengths(type)) {
        SCOPED_TRACE(std::string(isa_name(table->isa)) + " " + std::string(block_format(type).name) + " K " +
                     std::to_string(cols));
        std::mt19937 random(static_cast<std::uint32_t>(cols) + static_cast<std::uint32_t>(type));
        constexpr std::int64_t kRows = 5, kTokens = 3;
        const FileWeight w(type, kRows, cols, random);
        const Activations x(*table->blocks, kTokens, cols, random);
        const std::vector<float> out = dot(*table->blocks, w, x.rows.data(), kTokens);
        for (std::int64_t t = 0; t < kTokens; ++t) {
          for (std::int64_t r = 0; r < kRows; ++r) {
            const Expected expected = expected_dot(w, r, x.rows[static_cast<std::size_t>(t)]);
            ASSERT_NEAR(out[static_cast<std::size_t>(t * kRows + r)], expected.value, expected.tolerance)
                << "token " << t << " row " << r;
          }
        }
      }
    }
  }
}

TEST(BlockDot, InterleavedRowsGiveTheSameBits) {
  for (const KernelTable* table : supported_kernels()) {
    const int unit = table->blocks->interleave_rows;
    if (unit == 0) continue;
    for (const ElementType type : kDotTypes) {
      for (const std::int64_t cols : lengths(type)) {
        SCOPED_TRACE(std::string(isa_name(table->isa)) + " " + std::string(block_format(type).name) + " K " +
                     std::to_string(cols));
        std::mt19937 random(static_cast<std::uint32_t>(cols) + static_cast<std::uint32_t>(type));
        constexpr std::int64_t kTokens = 5;
        const FileWeight w(type, 3 * unit, cols, random);
        const Activations x(*table->blocks, kTokens, cols, random);
        const std::vector<float> expected = dot(*table->blocks, w, x.rows.data(), kTokens);
        const std::vector<std::byte> interleaved = interleaved_rows(*table->blocks, w);
        std::vector<float> out(expected.size(), std::numeric_limits<float>::quiet_NaN());
        table->blocks->dot({.type = type,
                            .weight = interleaved.data(),
                            .row_bytes = w.row_bytes,
                            .rows = w.rows,
                            .cols = cols,
                            .interleaved = true,
                            .x = x.rows.data(),
                            .tokens = kTokens,
                            .out = out.data(),
                            .out_stride = w.rows});
        ASSERT_EQ(out, expected);
      }
    }
  }
}

TEST(BlockDot, TypesWithoutDotProductsSaySo) {
  for (const KernelTable* table : supported_kernels()) {
    for (const BlockFormat& format : block_formats()) {
      const bool expected = std::find(std::begin(kDotTypes), std::end(kDotTypes), format.type) != std::end(kDotTypes);
      EXPECT_EQ(table->blocks->has_dot(format.type), expected) << format.name;
    }
  }
}

/// Every number that a format can hold, with the largest activations: no intermediate integer may overflow.
TEST(BlockDot, ExtremesDoNotOverflow) {
  for (const KernelTable* table : supported_kernels()) {
    for (const ElementType type : kDotTypes) {
      for (const int byte : {0x00, 0x7f, 0x80, 0x81, 0xff, 0x0f, 0xf0}) {
        for (const float sign : {1.0F, -1.0F}) {
          SCOPED_TRACE(std::string(isa_name(table->isa)) + " " + std::string(block_format(type).name) + " byte " +
                       std::to_string(byte));
          std::mt19937 random(1);
          FileWeight w(type, 3, 512, random);
          std::fill(w.bytes.begin(), w.bytes.end(), static_cast<std::byte>(byte));
          w.set_scales(random);
          Activations x(*table->blocks, 1, 512, random);
          std::fill(x.x.begin(), x.x.end(), sign);
          table->blocks->quantize_activations(x.x.data(), 512, x.rows[0]);
          ASSERT_EQ(x.rows[0].values[17], sign < 0 ? -127 : 127);
          const std::vector<float> out = dot(*table->blocks, w, x.rows.data(), 1);
          for (std::int64_t r = 0; r < 3; ++r) {
            const Expected expected = expected_dot(w, r, x.rows[0]);
            ASSERT_NEAR(out[static_cast<std::size_t>(r)], expected.value, expected.tolerance) << r;
          }
        }
      }
    }
  }
}

TEST(BlockDot, BitsDependOnNeitherRowsNorTokens) {
  for (const KernelTable* table : supported_kernels()) {
    for (const ElementType type : kDotTypes) {
      const std::int64_t cols = block_format(type).block_elements == 256 ? 512 : 7 * 32;
      SCOPED_TRACE(std::string(isa_name(table->isa)) + " " + std::string(block_format(type).name));
      std::mt19937 random(7);
      constexpr std::int64_t kRows = 11, kTokens = 32;
      const FileWeight w(type, kRows, cols, random);
      const Activations x(*table->blocks, kTokens, cols, random);
      const std::vector<float> all = dot(*table->blocks, w, x.rows.data(), kTokens);
      for (std::int64_t tokens = 1; tokens <= 7; ++tokens) {
        for (std::int64_t t = 0; t + tokens <= kTokens; t += tokens) {
          const std::vector<float> some = dot(*table->blocks, w, x.rows.data() + t, tokens);
          for (std::int64_t i = 0; i < tokens * kRows; ++i) {
            ASSERT_EQ(some[static_cast<std::size_t>(i)], all[static_cast<std::size_t>(t * kRows + i)])
                << tokens << " tokens from " << t;
          }
        }
      }
      for (std::int64_t r = 0; r < kRows; ++r) {
        FileWeight one = w;
        one.rows = 1;
        const auto first = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(r) * w.row_bytes);
        one.bytes.assign(w.bytes.begin() + first, w.bytes.begin() + first + static_cast<std::ptrdiff_t>(w.row_bytes));
        ASSERT_EQ(dot(*table->blocks, one, x.rows.data(), 1)[0], all[static_cast<std::size_t>(r)]) << "row " << r;
      }
    }
  }
}

TEST(BlockDot, NotFiniteActivationsSpoilTheirTokenOnly) {
  for (const KernelTable* table : supported_kernels()) {
    for (const ElementType type : {ElementType::q4_0, ElementType::q5_1, ElementType::q4_k, ElementType::q6_k}) {
      for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
        std::mt19937 random(3);
        const FileWeight w(type, 4, 512, random);
        Activations x(*table->blocks, 3, 512, random);
        x.x[512 + 301] = bad;
        table->blocks->quantize_activations(x.x.data() + 512, 512, x.rows[1]);
        const std::vector<float> out = dot(*table->blocks, w, x.rows.data(), 3);
        for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(std::isnan(out[i]), i / 4 == 1) << i;
      }
    }
  }
}

TEST(QuantizeActivations, EveryInstructionSetGivesTheSameNearestIntegers) {
  std::mt19937 random(11);
  constexpr std::int64_t kCols = 20 * 32;
  std::vector<float> x = random_floats(kCols, random);
  const auto scale_block = [&](std::int64_t block, float by) {
    for (std::int64_t i = 0; i < 32; ++i) x[static_cast<std::size_t>(32 * block + i)] *= by;
  };
  scale_block(3, 0.0F);
  scale_block(4, 0x1p-99F);
  scale_block(5, 0x1p-103F);
  scale_block(6, 0x1p126F);
  for (std::size_t i = 0; i < 32; ++i) x[7 * 32 + i] = static_cast<float>(i) * 0.5F - 8.0F;
  x[7 * 32] = 127.0F;  // halves exactly between integers, to even
  for (const KernelTable* table : supported_kernels()) {
    SCOPED_TRACE(std::string(isa_name(table->isa)));
    std::vector<std::int8_t> values(kCols);
    std::vector<float> scales(kCols / 32);
    std::vector<std::int16_t> sums(kCols / 16);
    table->blocks->quantize_activations(x.data(), kCols, {values.data(), scales.data(), sums.data()});
    for (std::size_t block = 0; block < scales.size(); ++block) {
      float largest = 0.0F;
      for (std::size_t i = 32 * block; i < 32 * block + 32; ++i) largest = std::max(largest, std::abs(x[i]));
      const bool nothing = largest < 0x1p-100F;
      ASSERT_EQ(scales[block], nothing ? 0.0F : largest / 127.0F) << block;
      for (std::size_t half = 0; half < 2; ++half) {
        int sum = 0;
        for (std::size_t i = 32 * block + 16 * half; i < 32 * block + 16 * half + 16; ++i) {
          const float inverse = nothing ? 0.0F : 127.0F / largest;
          ASSERT_EQ(values[i], static_cast<int>(std::nearbyint(x[i] * inverse))) << i;
          sum += values[i];
        }
        ASSERT_EQ(sums[2 * block + half], sum) << block;
      }
    }
    EXPECT_EQ(values[7 * 32 + 15], 0);  // -0.5
    EXPECT_EQ(values[7 * 32 + 19], 2);  // 1.5
    EXPECT_EQ(values[7 * 32 + 21], 2);  // 2.5
  }
}

TEST(FloatDot, MatchesDoubleAtEveryLength) {
  for (const KernelTable* table : supported_kernels()) {
    for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16}) {
      for (const std::int64_t cols : {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 1001}) {
        SCOPED_TRACE(std::string(isa_name(table->isa)) + " " + std::string(block_format(type).name) + " K " +
                     std::to_string(cols));
        std::mt19937 random(static_cast<std::uint32_t>(cols) + 5);
        constexpr std::int64_t kRows = 3, kTokens = 7;
        const FileWeight w(type, kRows, cols, random);
        const std::int64_t stride = cols + 3;
        std::vector<float> x = random_floats(kTokens * stride, random);
        x.resize(static_cast<std::size_t>((kTokens - 1) * stride + cols));
        std::vector<float> out(kTokens * kRows), alone(kRows);
        table->blocks->float_dot(type, w.bytes.data(), w.row_bytes, kRows, cols, x.data(), stride, kTokens, out.data(),
                                 kRows);
        for (std::int64_t t = 0; t < kTokens; ++t) {
          table->blocks->float_dot(type, w.bytes.data(), w.row_bytes, kRows, cols, x.data() + t * stride, stride, 1,
                                   alone.data(), kRows);
          for (std::int64_t r = 0; r < kRows; ++r) {
            double sum = 0.0;
            double magnitude = 0.0;
            for (std::int64_t i = 0; i < cols; ++i) {
              const double product = double{x[static_cast<std::size_t>(t * stride + i)]} * w.at(r, i);
              sum += product;
              magnitude += std::abs(product);
            }
            const float got = out[static_cast<std::size_t>(t * kRows + r)];
            ASSERT_NEAR(got, sum, tolerance(cols, magnitude, ElementType::f32, sum)) << t << ", " << r;
            ASSERT_EQ(got, alone[static_cast<std::size_t>(r)]) << t << ", " << r;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quern
