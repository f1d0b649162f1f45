// The K-quant quantizers: every instruction set gives the same bytes, decoded errors stay under those of plain rounding,
// and awkward input (zeros, one sign, outliers, tiny and huge values, missing importance) is handled.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "math/block_formats.hpp"
#include "math/block_quantize.hpp"
#include "math/cpu_features.hpp"
#include "math/number_formats.hpp"
#include "support/block_reference.hpp"

namespace quern {
namespace {

constexpr ElementType kTypes[] = {ElementType::q2_k, ElementType::q3_k, ElementType::q4_k, ElementType::q5_k,
                                  ElementType::q6_k};
constexpr int kSuper = 256;

struct Quantizer {
  std::string name;
  BlockQuantizer quantize;
};

std::vector<Quantizer> quantizers() {
  std::vector<Quantizer> result = {{"portable", block_quantizer_k_portable()}};
  if (block_quantizer_k_avx2() != nullptr && supports(cpu_features(), Isa::avx2)) {
    result.push_back({"avx2", block_quantizer_k_avx2()});
  }
  if (block_quantizer_k_avx512() != nullptr && supports(cpu_features(), Isa::avx512)) {
    result.push_back({"avx512", block_quantizer_k_avx512()});
  }
  return result;
}

std::string name_of(ElementType type) { return std::string(block_format(type).name); }

using Numbers = std::vector<float>;
using Bytes = std::vector<std::byte>;

/// The bytes of x as rows of `cols`, checked to be written wholly and nothing beside them.
Bytes quantized(const Quantizer& by, ElementType type, const Numbers& x, std::int64_t cols, const Numbers* importance) {
  const std::size_t size = bytes_of(type, static_cast<std::int64_t>(x.size())).value();
  constexpr std::size_t kGuard = 64;
  Bytes results[2];
  for (const int fill : {0x5A, 0xA5}) {
    Bytes out(size + 2 * kGuard, static_cast<std::byte>(fill));
    const QuantizeRows rows{.type = type,
                            .x = x.data(),
                            .rows = static_cast<std::int64_t>(x.size()) / cols,
                            .cols = cols,
                            .importance = importance == nullptr ? nullptr : importance->data(),
                            .out = out.data() + kGuard};
    EXPECT_TRUE(by.quantize(rows));
    for (std::size_t i = 0; i < kGuard; ++i) {
      EXPECT_EQ(out[i], static_cast<std::byte>(fill));
      EXPECT_EQ(out[kGuard + size + i], static_cast<std::byte>(fill));
    }
    results[fill == 0xA5].assign(out.begin() + kGuard, out.begin() + static_cast<std::ptrdiff_t>(kGuard + size));
  }
  EXPECT_EQ(results[0], results[1]);
  return results[0];
}

/// By the best instruction set of this machine.
Bytes quantized(ElementType type, const Numbers& x, std::int64_t cols, const Numbers* importance = nullptr) {
  return quantized(quantizers().back(), type, x, cols, importance);
}

/// Sum of importance * (x - decoded)^2 from super-block `first` on.
double error_of(const std::vector<double>& decoded, const Numbers& x, const Numbers* importance, std::size_t first = 0,
                std::size_t count = std::numeric_limits<std::size_t>::max()) {
  double sum = 0.0;
  const std::size_t begin = first * kSuper;
  const std::size_t end = count == std::numeric_limits<std::size_t>::max() ? x.size() : begin + count * kSuper;
  for (std::size_t i = begin; i < end; ++i) {
    const double difference = static_cast<double>(x[i]) - decoded[i];
    const double weight = importance == nullptr ? 1.0 : static_cast<double>((*importance)[i % importance->size()]);
    sum += weight * difference * difference;
  }
  return sum;
}

double error_after(ElementType type, const Numbers& x, std::int64_t cols, const Numbers* importance = nullptr) {
  const std::vector<double> decoded = decode_reference(type, quantized(type, x, cols, importance));
  for (const double value : decoded) EXPECT_TRUE(std::isfinite(value));
  return error_of(decoded, x, importance);
}

Numbers random_numbers(std::size_t count, std::uint32_t seed, const std::function<double(std::mt19937&)>& draw) {
  std::mt19937 engine(seed);
  Numbers x(count);
  for (float& value : x) value = static_cast<float>(draw(engine));
  return x;
}

Numbers normal(std::size_t count, std::uint32_t seed) {
  std::normal_distribution<double> distribution(0.0, 0.02);
  return random_numbers(count, seed, [&](std::mt19937& engine) { return distribution(engine); });
}

Numbers heavy_tailed(std::size_t count, std::uint32_t seed) {
  std::student_t_distribution<double> distribution(3.0);
  return random_numbers(count, seed, [&](std::mt19937& engine) { return 0.02 * distribution(engine); });
}

Numbers chi_square(std::size_t count, std::uint32_t seed) {
  std::chi_squared_distribution<double> distribution(1.0);
  return random_numbers(count, seed, [&](std::mt19937& engine) { return distribution(engine); });
}

Numbers skewed(std::size_t count, std::uint32_t seed) {
  std::lognormal_distribution<double> distribution(0.0, 2.5);
  return random_numbers(count, seed, [&](std::mt19937& engine) { return 1e-5 * distribution(engine); });
}

/// What a format can say: codes 0 to `codes` and an offset (affine), or codes from -(codes + 1) / 2 (symmetric).
struct Shape {
  int sub_block;
  int codes;
  int scales;
  bool affine;
};

Shape shape_of(ElementType type) {
  switch (type) {
    case ElementType::q2_k:
      return {16, 3, 15, true};
    case ElementType::q3_k:
      return {16, 7, 32, false};
    case ElementType::q4_k:
      return {32, 15, 63, true};
    case ElementType::q5_k:
      return {32, 31, 63, true};
    default:
      return {16, 63, 128, false};
  }
}

double as_f16(double value) { return static_cast<double>(float_from_f16(f16_from_float(static_cast<float>(value)))); }

/// The error of plain rounding: each sub-block's range over all codes, its scale and offset rounded to multiples of d and
/// dmin that reach the largest ones.
double rounding_error(ElementType type, const Numbers& x, const Numbers* importance) {
  const Shape shape = shape_of(type);
  double error = 0.0;
  for (std::size_t start = 0; start < x.size(); start += kSuper) {
    std::vector<double> steps;
    std::vector<double> offsets;
    const auto sub_block = static_cast<std::size_t>(shape.sub_block);
    for (std::size_t s = start; s < start + kSuper; s += sub_block) {
      double low = 0.0;
      double high = 0.0;
      for (std::size_t i = s; i < s + sub_block; ++i) {
        low = std::min(low, static_cast<double>(x[i]));
        high = std::max(high, static_cast<double>(x[i]));
      }
      steps.push_back(shape.affine ? (high - low) / shape.codes : std::max(high, -low) / (shape.codes / 2));
      offsets.push_back(shape.affine ? -low : 0.0);
    }
    const double d =
        as_f16(*std::max_element(steps.begin(), steps.end()) / (shape.affine ? shape.scales : shape.scales - 1));
    const double dmin = as_f16(*std::max_element(offsets.begin(), offsets.end()) / shape.scales);
    for (std::size_t i = start; i < start + kSuper; ++i) {
      const std::size_t k = (i - start) / sub_block;
      const double step = d > 0.0 ? d * std::nearbyint(steps[k] / d) : 0.0;
      const double offset = dmin > 0.0 ? dmin * std::nearbyint(offsets[k] / dmin) : 0.0;
      const double least = shape.affine ? 0.0 : -(shape.codes + 1) / 2.0;
      const double code = step > 0.0 ? std::nearbyint((static_cast<double>(x[i]) + offset) / step) : 0.0;
      const double decoded = step * std::clamp(code, least, least + shape.codes) - offset;
      const double difference = static_cast<double>(x[i]) - decoded;
      const double weight = importance == nullptr ? 1.0 : static_cast<double>((*importance)[i % importance->size()]);
      error += weight * difference * difference;
    }
  }
  return error;
}

TEST(BlockQuantizeK, OtherTypesAreRefusedAndNothingIsWritten) {
  for (const Quantizer& by : quantizers()) {
    for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::q4_0, ElementType::q8_0,
                                   ElementType::iq4_xs, ElementType::tq2_0, ElementType::i32}) {
      const Numbers x(kSuper, 1.0F);
      Bytes out(4 * kSuper, std::byte{0x5A});
      EXPECT_FALSE(by.quantize({.type = type, .x = x.data(), .rows = 1, .cols = kSuper, .out = out.data()}));
      EXPECT_EQ(std::count(out.begin(), out.end(), std::byte{0x5A}), 4 * kSuper);
    }
  }
}

TEST(BlockQuantizeK, NoRowsWriteNothing) {
  for (const Quantizer& by : quantizers()) {
    for (const ElementType type : kTypes) EXPECT_TRUE(quantized(by, type, {}, kSuper, nullptr).empty());
  }
}

TEST(BlockQuantizeK, EveryInstructionSetGivesTheSameBytes) {
  const auto all = quantizers();
  for (const ElementType type : kTypes) {
    for (const std::int64_t cols : {256, 512, 768}) {
      const auto columns = static_cast<std::size_t>(cols);
      Numbers odd = heavy_tailed(3 * columns, 5);
      for (std::size_t i = 0; i < odd.size(); i += 7) odd[i] *= 1e-3F;
      for (std::size_t i = 0; i < kSuper; ++i) odd[i] *= 1e-5F;  // subnormal scales
      for (const Numbers& x : {normal(3 * columns, 1), odd}) {
        const Numbers chi = chi_square(columns, 2);
        const Numbers skew = skewed(columns, 3);
        for (const Numbers* importance : std::initializer_list<const Numbers*>{nullptr, &chi, &skew}) {
          const Bytes expected = quantized(all.front(), type, x, cols, importance);
          for (const Quantizer& by : all) {
            EXPECT_EQ(quantized(by, type, x, cols, importance), expected)
                << name_of(type) << " by " << by.name << ", rows of " << cols;
          }
        }
      }
    }
  }
}

// Sub-blocks are searched side by side, and none may see its neighbours.
TEST(BlockQuantizeK, SuperBlocksAreIndependent) {
  constexpr std::size_t kBlocks = 5;
  for (const Quantizer& by : quantizers()) {
    for (const ElementType type : kTypes) {
      const Numbers x = heavy_tailed(kBlocks * kSuper, 11);
      const Numbers importance = chi_square(kBlocks * kSuper, 12);
      const Bytes together = quantized(by, type, x, kBlocks * kSuper, &importance);
      Bytes apart;
      for (std::size_t b = 0; b < kBlocks; ++b) {
        const auto part = [b](const Numbers& of) {
          return Numbers(of.begin() + static_cast<std::ptrdiff_t>(b * kSuper),
                         of.begin() + static_cast<std::ptrdiff_t>((b + 1) * kSuper));
        };
        const Numbers weights = part(importance);
        const Bytes one = quantized(by, type, part(x), kSuper, &weights);
        apart.insert(apart.end(), one.begin(), one.end());
      }
      EXPECT_EQ(together, apart) << name_of(type) << " by " << by.name;
    }
  }
}

TEST(BlockQuantizeK, ErrorsAreBelowThoseOfPlainRounding) {
  constexpr std::size_t kBlocks = 12;
  const Numbers chi = chi_square(2 * kSuper, 22);
  const Numbers skew = skewed(2 * kSuper, 23);
  for (const ElementType type : kTypes) {
    for (const Numbers& x : {normal(kBlocks * kSuper, 20), heavy_tailed(kBlocks * kSuper, 21)}) {
      for (const Numbers* importance : std::initializer_list<const Numbers*>{nullptr, &chi, &skew}) {
        const double ours = error_after(type, x, 2 * kSuper, importance);
        // The search gains a tenth of the error where weights are equal and values normal, and more where they are not.
        EXPECT_LT(ours, 0.9 * rounding_error(type, x, importance)) << name_of(type);
      }
    }
  }
}

// Relative RMS errors of normal numbers are a matter of the codes: the bounds are those of the best uniform quantizers of
// 4, 8, 16, 32 and 64 levels, whose scales follow each sub-block's range.
TEST(BlockQuantizeK, NormalNumbersKeepTheirKnownPrecision) {
  constexpr double kBounds[] = {0.275, 0.152, 0.073, 0.036, 0.0175};
  const Numbers x = normal(64 * kSuper, 30);
  double squares = 0.0;
  for (const float value : x) squares += static_cast<double>(value) * static_cast<double>(value);
  for (std::size_t t = 0; t < std::size(kTypes); ++t) {
    const double relative = std::sqrt(error_after(kTypes[t], x, kSuper) / squares);
    EXPECT_LT(relative, kBounds[t]) << name_of(kTypes[t]);
    EXPECT_GT(relative, 0.5 * kBounds[t]) << name_of(kTypes[t]);
  }
}

TEST(BlockQuantizeK, ImportanceLowersTheWeightedError) {
  constexpr std::int64_t kCols = 2 * kSuper;
  const Numbers x = normal(8 * kCols, 40);
  for (const Numbers& importance : {chi_square(kCols, 41), skewed(kCols, 42)}) {
    for (const ElementType type : kTypes) {
      const double without = error_of(decode_reference(type, quantized(type, x, kCols)), x, &importance);
      EXPECT_LT(error_after(type, x, kCols, &importance), 0.95 * without) << name_of(type);
    }
  }
}

TEST(BlockQuantizeK, OnlyRatiosOfImportanceCount) {
  const Numbers x = normal(6 * kSuper, 50);
  const Numbers importance = chi_square(2 * kSuper, 51);
  for (const ElementType type : kTypes) {
    const Bytes expected = quantized(type, x, 2 * kSuper, &importance);
    for (const float factor : {0x1p-60F, 0x1p90F}) {
      Numbers scaled = importance;
      for (float& w : scaled) w *= factor;
      EXPECT_EQ(quantized(type, x, 2 * kSuper, &scaled), expected) << name_of(type) << " times " << factor;
    }
  }
}

TEST(BlockQuantizeK, SuperBlocksOfNoImportanceCountAsEqual) {
  const Numbers x = normal(4 * kSuper, 60);
  for (const ElementType type : kTypes) {
    const Bytes equal = quantized(type, x, 2 * kSuper);
    for (const float all : {0.0F, 1.0F, 0x1p-140F, 0x1p100F}) {
      const Numbers importance(2 * kSuper, all);
      EXPECT_EQ(quantized(type, x, 2 * kSuper, &importance), equal) << name_of(type) << ", all " << all;
    }
  }
}

// A sub-block whose columns were never seen still gets codes that mean something.
TEST(BlockQuantizeK, SubBlocksOfNoImportanceAreStillQuantized) {
  const Numbers x = normal(8 * kSuper, 70);
  for (const ElementType type : kTypes) {
    Numbers importance(kSuper, 1.0F);
    std::fill(importance.begin() + 64, importance.begin() + 128, 0.0F);
    Numbers only(kSuper, 0.0F);
    std::fill(only.begin() + 64, only.begin() + 128, 1.0F);
    const double unseen = error_of(decode_reference(type, quantized(type, x, kSuper, &importance)), x, &only);
    const double seen = error_of(decode_reference(type, quantized(type, x, kSuper)), x, &only);
    EXPECT_LT(unseen, 1.5 * seen) << name_of(type);
  }
}

TEST(BlockQuantizeK, PowersOfTwoScaleOnlyTheSuperBlocksScale) {
  Numbers x = normal(4 * kSuper, 80);
  for (float& value : x) value *= 0x1p10F;  // no scale is subnormal
  for (const ElementType type : kTypes) {
    const std::vector<double> expected = decode_reference(type, quantized(type, x, kSuper));
    Numbers scaled = x;
    for (float& value : scaled) value *= 0x1p-4F;
    const std::vector<double> decoded = decode_reference(type, quantized(type, scaled, kSuper));
    for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(decoded[i], 0x1p-4 * expected[i]) << name_of(type);
  }
}

TEST(BlockQuantizeK, ZerosStayZeros) {
  for (const Quantizer& by : quantizers()) {
    for (const ElementType type : kTypes) {
      // The largest value that is nearer to zero than to the smallest f16, subnormal numbers, and both zeros.
      for (const float value : {0.0F, -0.0F, 1e-45F, -1e-40F, 2.9e-8F}) {
        const Numbers x(3 * kSuper, value);
        for (const double decoded : decode_reference(type, quantized(by, type, x, 3 * kSuper, nullptr))) {
          ASSERT_EQ(decoded, 0.0) << name_of(type) << " by " << by.name << ", " << value;
        }
      }
    }
  }
}

TEST(BlockQuantizeK, ConstantBlocksAreNearlyExact) {
  for (const ElementType type : kTypes) {
    for (const float value : {1.0F, -1.0F, 0.37F, -0.37F, 1e-3F, -123.0F, 3000.0F}) {
      const Numbers x(2 * kSuper, value);
      for (const double decoded : decode_reference(type, quantized(type, x, kSuper))) {
        // d is rounded to 11 bits or to a multiple of 2^-24, and multiplied by a scale and perhaps by a code.
        ASSERT_NEAR(decoded, value, 0x1p-11 * std::abs(value) + 0x1p-25 * shape_of(type).scales) << name_of(type);
      }
    }
  }
}

TEST(BlockQuantizeK, BlocksOfOneSignAreAsPreciseAsTheirMirrorImage) {
  Numbers x = normal(4 * kSuper, 90);
  for (float& value : x) value = 1.0F + value;  // all near 1
  Numbers negative = x;
  for (float& value : negative) value = -value;
  for (const ElementType type : kTypes) {
    const double error = error_after(type, x, kSuper);
    const double mirrored = error_after(type, negative, kSuper);
    if (shape_of(type).affine) {
      EXPECT_EQ(error, mirrored) << name_of(type);
      // Offsets reach to either side: the error is that of the numbers' spread (and of dmin's 11 bits), not of their
      // distance from zero.
      Numbers spread = x;
      for (float& value : spread) value -= 1.0F;
      EXPECT_LT(error, 4.0 * error_after(type, spread, kSuper)) << name_of(type);
    } else {
      EXPECT_LT(error, 1.25 * mirrored) << name_of(type);
      EXPECT_LT(mirrored, 1.25 * error) << name_of(type);
    }
  }
}

TEST(BlockQuantizeK, OneOutlierIsKept) {
  for (const ElementType type : kTypes) {
    for (const float outlier : {100.0F, -100.0F}) {
      Numbers x = normal(kSuper, 100);
      x[77] = outlier;
      const std::vector<double> decoded = decode_reference(type, quantized(type, x, kSuper));
      EXPECT_NEAR(decoded[77], static_cast<double>(outlier), 0.02 * 100.0) << name_of(type);
      // The rest is no further off than zero is, but that d and dmin, each rounded to 11 bits, move the outlier's sub-block.
      double rest = 0.0;
      for (const float value : x) rest += value == outlier ? 0.0 : static_cast<double>(value) * static_cast<double>(value);
      const double moved = 100.0 * 0x1p-11;
      EXPECT_LT(error_of(decoded, x, nullptr), rest + shape_of(type).sub_block * moved * moved) << name_of(type);
    }
  }
}

TEST(BlockQuantizeK, TinyValuesTakeTheSmallestScales) {
  for (const ElementType type : kTypes) {
    for (const float size : {3e-8F, 1e-7F, 1e-6F, 1e-5F}) {
      Numbers x = normal(2 * kSuper, 110);
      for (float& value : x) value *= size / 0.02F;
      double squares = 0.0;
      for (const float value : x) squares += static_cast<double>(value) * static_cast<double>(value);
      EXPECT_LE(error_after(type, x, kSuper), squares) << name_of(type) << ", " << size;  // zeros would do as well
    }
  }
}

TEST(BlockQuantizeK, HugeValuesComeAsNearAsTheFormatReaches) {
  constexpr double kLargestScale = 65504.0;
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (const Quantizer& by : quantizers()) {
    for (const ElementType type : kTypes) {
      const Shape shape = shape_of(type);
      const double low = shape.affine ? -kLargestScale * shape.scales : -kLargestScale * shape.scales * (shape.codes / 2);
      Numbers x(kSuper, kLargest);
      for (const double decoded : decode_reference(type, quantized(by, type, x, kSuper, nullptr))) {
        ASSERT_TRUE(std::isfinite(decoded));
        ASSERT_GE(decoded, kLargestScale * (shape.scales - 1) * (shape.codes / 2) * 0.9) << name_of(type);
      }
      x.assign(kSuper, -kLargest);
      for (const double decoded : decode_reference(type, quantized(by, type, x, kSuper, nullptr))) {
        ASSERT_TRUE(std::isfinite(decoded));
        ASSERT_LE(decoded, 0.9 * low) << name_of(type);
      }
      for (std::size_t i = 0; i < kSuper; ++i) x[i] = i % 3 == 0 ? kLargest : (i % 3 == 1 ? -kLargest : 1e-30F);
      for (const double decoded : decode_reference(type, quantized(by, type, x, kSuper, nullptr))) {
        ASSERT_TRUE(std::isfinite(decoded));
      }
    }
  }
}

// What is no number is refused by the callers; here it must do no harm.
TEST(BlockQuantizeK, NumbersThatAreNoneCountAsZero) {
  for (const ElementType type : kTypes) {
    Numbers x = normal(kSuper, 120);
    Numbers zeros = x;
    const float none[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()};
    for (std::size_t i = 0; i < 12; ++i) {
      x[17 * i] = none[i % 3];
      zeros[17 * i] = 0.0F;
    }
    for (const Quantizer& by : quantizers()) {
      EXPECT_EQ(quantized(by, type, x, kSuper, nullptr), quantized(by, type, zeros, kSuper, nullptr)) << name_of(type);
    }
  }
}

/// Blocks that a quantizer could have written: positive d and dmin, the largest scale in use, codes of the whole range in
/// every sub-block.
Numbers representable(ElementType type, std::size_t blocks, std::uint32_t seed) {
  const Shape shape = shape_of(type);
  std::mt19937 engine(seed);
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine); };
  Numbers x;
  for (std::size_t b = 0; b < blocks; ++b) {
    const float d = static_cast<float>(draw(1024, 2047)) * 0x1p-18F;
    const float dmin = static_cast<float>(draw(1024, 2047)) * 0x1p-18F;
    for (int k = 0; k < kSuper / shape.sub_block; ++k) {
      const int scale = shape.affine ? (k == 0 ? shape.scales : draw(shape.scales / 2, shape.scales))
                                     : (k == 0 ? -shape.scales : draw(shape.scales / 2, shape.scales - 1));
      const int minimum = k == 1 ? shape.scales : draw(0, shape.scales);
      for (int i = 0; i < shape.sub_block; ++i) {
        const int code = i == 3 ? 0 : (i == 5 ? shape.codes : draw(0, shape.codes));
        const int offset = shape.affine ? 0 : (shape.codes + 1) / 2;
        x.push_back(d * static_cast<float>(scale * (code - offset)) -
                    (shape.affine ? dmin * static_cast<float>(minimum) : 0.0F));
      }
    }
  }
  return x;
}

TEST(BlockQuantizeK, WhatAFormatCanSayComesBack) {
  constexpr std::size_t kBlocks = 16;
  for (const ElementType type : kTypes) {
    const Numbers x = representable(type, kBlocks, 130);
    double squares = 0.0;
    for (const float value : x) squares += static_cast<double>(value) * static_cast<double>(value);
    EXPECT_LE(error_after(type, x, kSuper), 1e-9 * squares) << name_of(type);
  }
}

}  // namespace
}  // namespace quern
