// The legacy quantizers: every instruction set gives the same bytes, errors stay under those of plain rounding in double,
// what a format can say comes back exactly, and awkward input (zeros, outliers, tiny and huge values) is handled.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
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

constexpr ElementType kBlockTypes[] = {ElementType::q4_0, ElementType::q4_1,   ElementType::q5_0,   ElementType::q5_1,
                                       ElementType::q8_0, ElementType::iq4_nl, ElementType::iq4_xs, ElementType::mxfp4};

using Numbers = std::vector<float>;
using Bytes = std::vector<std::byte>;

struct Quantizer {
  std::string name;
  BlockQuantizer quantize;
};

std::vector<Quantizer> quantizers() {
  std::vector<Quantizer> result = {{"portable", block_quantizer_legacy_portable()}};
  if (block_quantizer_legacy_avx2() != nullptr && supports(cpu_features(), Isa::avx2)) {
    result.push_back({"avx2", block_quantizer_legacy_avx2()});
  }
  if (block_quantizer_legacy_avx512() != nullptr && supports(cpu_features(), Isa::avx512)) {
    result.push_back({"avx512", block_quantizer_legacy_avx512()});
  }
  return result;
}

std::string name_of(ElementType type) { return std::string(block_format(type).name); }

/// The bytes of x as rows of `cols`, with guards on both sides. Output starts at an odd address.
Bytes quantized(const Quantizer& by, ElementType type, const Numbers& x, std::int64_t cols, const Numbers* importance) {
  constexpr std::size_t kGuard = 65;
  const std::size_t size = bytes_of(type, static_cast<std::int64_t>(x.size())).value();
  Bytes out(size + 2 * kGuard, std::byte{0x5A});
  const QuantizeRows rows{.type = type,
                          .x = x.data(),
                          .rows = cols == 0 ? 0 : static_cast<std::int64_t>(x.size()) / cols,
                          .cols = cols,
                          .importance = importance == nullptr ? nullptr : importance->data(),
                          .out = out.data() + kGuard};
  EXPECT_TRUE(by.quantize(rows)) << by.name << " " << name_of(type);
  for (std::size_t i = 0; i < kGuard; ++i) {
    EXPECT_EQ(out[i], std::byte{0x5A}) << by.name << " " << name_of(type) << " wrote before its output";
    EXPECT_EQ(out[kGuard + size + i], std::byte{0x5A}) << by.name << " " << name_of(type) << " wrote after its output";
  }
  return {out.begin() + kGuard, out.begin() + static_cast<std::ptrdiff_t>(kGuard + size)};
}

/// By every instruction set, which must agree.
Bytes quantized(ElementType type, const Numbers& x, std::int64_t cols, const Numbers* importance = nullptr) {
  const std::vector<Quantizer> all = quantizers();
  const Bytes expected = quantized(all.front(), type, x, cols, importance);
  for (const Quantizer& by : all) {
    const Bytes got = quantized(by, type, x, cols, importance);
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (got[i] != expected[i]) {
        ADD_FAILURE() << name_of(type) << " " << by.name << " differs from " << all.front().name << " at byte " << i
                      << " of " << got.size();
        break;
      }
    }
  }
  return expected;
}

std::vector<double> decoded(ElementType type, const Bytes& bytes) { return decode_reference(type, bytes); }

Numbers made(std::size_t count, const std::function<double(std::mt19937&)>& draw, std::uint32_t seed) {
  std::mt19937 engine(seed);
  Numbers x(count);
  for (float& value : x) value = static_cast<float>(draw(engine));
  return x;
}

Numbers normal(std::size_t count, std::uint32_t seed, double deviation = 1.0) {
  return made(
      count, [deviation](std::mt19937& engine) { return std::normal_distribution<double>(0.0, deviation)(engine); }, seed);
}
Numbers heavy_tailed(std::size_t count, std::uint32_t seed) {
  return made(
      count, [](std::mt19937& engine) { return 0.02 * std::student_t_distribution<double>(3.0)(engine); }, seed);
}
Numbers importances(std::size_t count, std::uint32_t seed) {
  return made(
      count, [](std::mt19937& engine) { return std::gamma_distribution<double>(0.5, 3.0)(engine); }, seed);
}

double error_of(const Numbers& x, const std::vector<double>& y, const Numbers* importance) {
  double sum = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double weight = importance == nullptr ? 1.0 : static_cast<double>((*importance)[i % importance->size()]);
    const double e = static_cast<double>(x[i]) - y[i];
    sum += weight * e * e;
  }
  return sum;
}

/// Plain rounding of one block of 32 in double: the scale from the extremes alone, nothing searched.
void plainly_rounded(ElementType type, const float* x, double* y) {
  double low = static_cast<double>(x[0]);
  double high = low;
  double extreme = 0.0;
  for (int j = 0; j < 32; ++j) {
    const auto value = static_cast<double>(x[j]);
    low = std::min(low, value);
    high = std::max(high, value);
    if (std::abs(value) > std::abs(extreme)) extreme = value;
  }
  const auto symmetric = [&](double d, double smallest, double largest) {
    for (int j = 0; j < 32; ++j) {
      y[j] = d == 0.0 ? 0.0 : d * std::clamp(std::round(static_cast<double>(x[j]) / d), smallest, largest);
    }
  };
  const auto affine = [&](double largest) {
    const double d = (high - low) / largest;
    for (int j = 0; j < 32; ++j) y[j] = low + (d == 0.0 ? 0.0 : d * std::round((static_cast<double>(x[j]) - low) / d));
  };
  const auto nearest = [&](double d, const std::vector<double>& values) {
    for (int j = 0; j < 32; ++j) {
      y[j] = d * values.front();
      for (const double value : values) {
        if (std::abs(d * value - static_cast<double>(x[j])) < std::abs(y[j] - static_cast<double>(x[j]))) y[j] = d * value;
      }
    }
  };
  switch (type) {
    case ElementType::q4_0:
      return symmetric(extreme / -8.0, -8.0, 7.0);
    case ElementType::q5_0:
      return symmetric(extreme / -16.0, -16.0, 15.0);
    case ElementType::q8_0:
      return symmetric(std::abs(extreme) / 127.0, -127.0, 127.0);
    case ElementType::q4_1:
      return affine(15.0);
    case ElementType::q5_1:
      return affine(31.0);
    case ElementType::iq4_nl:
    case ElementType::iq4_xs:
      return nearest(extreme / -127.0, {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113});
    case ElementType::mxfp4:
      return nearest(extreme == 0.0 ? 0.0 : std::exp2(std::floor(std::log2(std::abs(extreme))) - 2.0),
                     {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.5, -1, -1.5, -2, -3, -4, -6});
    default:
      FAIL() << "no rule for " << name_of(type);
  }
}

std::vector<double> plainly_rounded(ElementType type, const Numbers& x) {
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); i += 32) plainly_rounded(type, x.data() + i, y.data() + i);
  return y;
}

TEST(LegacyQuantizers, KnowTheirTypesAndWriteNothingForOthers) {
  const Numbers x(256, 1.0F);
  for (const Quantizer& by : quantizers()) {
    for (const BlockFormat& format : block_formats()) {
      Bytes out(4 * 256 * 2, std::byte{0x77});
      const bool known = by.quantize({.type = format.type, .x = x.data(), .rows = 1, .cols = 256, .out = out.data()});
      const bool ours = std::find(std::begin(kBlockTypes), std::end(kBlockTypes), format.type) != std::end(kBlockTypes) ||
                        format.type == ElementType::f32 || format.type == ElementType::f16 ||
                        format.type == ElementType::bf16;
      EXPECT_EQ(known, ours) << by.name << " " << format.name;
      if (!known) {
        EXPECT_TRUE(std::all_of(out.begin(), out.end(), [](std::byte b) { return b == std::byte{0x77}; })) << format.name;
      }
    }
  }
}

/// Row and block counts around the widths of vectors; and a block's bytes do not depend on the blocks beside it.
TEST(LegacyQuantizers, EveryInstructionSetGivesTheSameBytesForAnyShape) {
  for (const ElementType type : kBlockTypes) {
    const std::int64_t elements = block_format(type).block_elements;
    const auto block_bytes = static_cast<std::size_t>(block_format(type).block_bytes);
    for (const std::int64_t row_blocks : {1, 3, 4, 8, 15, 16, 17}) {
      for (const std::int64_t rows : {0, 1, 2, 5}) {
        const std::int64_t cols = row_blocks * elements;
        const auto count = static_cast<std::size_t>(rows * cols);
        const Numbers x = heavy_tailed(count, static_cast<std::uint32_t>(count));
        const Numbers importance = importances(static_cast<std::size_t>(cols), 3);
        const Bytes plain = quantized(type, x, cols);
        const Bytes weighted = quantized(type, x, cols, &importance);
        if (count == 0) continue;
        const std::size_t last = static_cast<std::size_t>(rows * row_blocks) - 1;
        const Numbers alone(x.end() - elements, x.end());
        const Numbers alone_importance(importance.end() - elements, importance.end());
        const Quantizer by = quantizers().back();
        EXPECT_EQ(quantized(by, type, alone, elements, nullptr),
                  Bytes(plain.begin() + static_cast<std::ptrdiff_t>(last * block_bytes), plain.end()))
            << name_of(type);
        EXPECT_EQ(quantized(by, type, alone, elements, &alone_importance),
                  Bytes(weighted.begin() + static_cast<std::ptrdiff_t>(last * block_bytes), weighted.end()))
            << name_of(type);
      }
    }
  }
}

/// Values of every magnitude: exponents from the smallest subnormal number to the largest float, within and between blocks.
TEST(LegacyQuantizers, FiniteInputOfAnyMagnitudeGivesTheSameFiniteBytes) {
  const std::size_t count = 256 * 40;
  const auto any_exponent = [](std::mt19937& engine) {
    const auto bits = static_cast<std::uint32_t>(engine()) % 0x7F800000U;
    return static_cast<double>(std::bit_cast<float>(bits | (engine() % 2 == 0 ? 0x80000000U : 0U)));
  };
  Numbers by_block = normal(count, 5);
  std::mt19937 engine(7);
  for (std::size_t i = 0; i < count; i += 32) {
    const double factor = std::exp2(std::uniform_real_distribution<double>(-150.0, 125.0)(engine));
    for (std::size_t j = i; j < i + 32; ++j) by_block[j] = static_cast<float>(static_cast<double>(by_block[j]) * factor);
  }
  const Numbers importance = importances(256, 11);
  Numbers wild_importance = made(256, any_exponent, 13);
  for (float& weight : wild_importance) weight = std::abs(weight);
  for (const Numbers& x : {made(count, any_exponent, 9), by_block}) {
    for (const ElementType type : kBlockTypes) {
      for (const Numbers* weights : {static_cast<const Numbers*>(nullptr), &importance, &std::as_const(wild_importance)}) {
        for (const double y : decoded(type, quantized(type, x, 256, weights))) {
          ASSERT_TRUE(std::isfinite(static_cast<float>(y))) << name_of(type);
        }
      }
    }
  }
}

TEST(LegacyQuantizers, ErrorsAreBelowThoseOfPlainRounding) {
  const std::size_t count = 256 * 64;
  const Numbers importance = importances(256, 17);
  for (const Numbers& x : {normal(count, 19, 0.02), heavy_tailed(count, 23)}) {
    for (const ElementType type : kBlockTypes) {
      const std::vector<double> plain = plainly_rounded(type, x);
      const Bytes equal = quantized(type, x, 256);
      const Bytes weighted = quantized(type, x, 256, &importance);
      // The search and the fit take a few percent at least (of these data; powers of two leave least to choose).
      const double most = type == ElementType::mxfp4 ? 0.98 : 0.97;
      EXPECT_LT(error_of(x, decoded(type, equal), nullptr), most * error_of(x, plain, nullptr)) << name_of(type);
      EXPECT_LT(error_of(x, decoded(type, weighted), &importance), most * error_of(x, plain, &importance)) << name_of(type);
      EXPECT_LT(error_of(x, decoded(type, weighted), &importance), error_of(x, decoded(type, equal), &importance))
          << name_of(type);
    }
  }
}

/// No block is much worse than plainly rounded: the scale of the latter is among those tried, or near one.
TEST(LegacyQuantizers, NoBlockIsMuchWorseThanPlainlyRounded) {
  const Numbers x = heavy_tailed(256 * 64, 29);
  for (const ElementType type : kBlockTypes) {
    if (type == ElementType::iq4_xs) continue;
    const std::vector<double> plain = plainly_rounded(type, x);
    const std::vector<double> ours = decoded(type, quantized(type, x, 256));
    for (std::size_t i = 0; i < x.size(); i += 32) {
      const Numbers block(x.begin() + static_cast<std::ptrdiff_t>(i), x.begin() + static_cast<std::ptrdiff_t>(i + 32));
      const auto part = [i](const std::vector<double>& all) {
        return std::vector<double>(all.begin() + static_cast<std::ptrdiff_t>(i),
                                   all.begin() + static_cast<std::ptrdiff_t>(i + 32));
      };
      EXPECT_LT(error_of(block, part(ours), nullptr), 1.3 * error_of(block, part(plain), nullptr))
          << name_of(type) << " " << i;
    }
  }
}

/// What a format can say comes back as it was, from codes and scales of any kind.
TEST(LegacyQuantizers, RepresentableValuesComeBackExactly) {
  const std::int64_t count = 256 * 100;
  const Numbers importance = importances(256, 31);
  for (const ElementType type : kBlockTypes) {
    const std::vector<double> values = decode_reference(type, random_blocks(type, count, 37));
    Numbers x(values.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(values[i]);
    for (const Numbers* weights : {static_cast<const Numbers*>(nullptr), &importance}) {
      const std::vector<double> y = decoded(type, quantized(type, x, 256, weights));
      std::int64_t wrong = 0;
      for (std::size_t i = 0; i < x.size(); ++i) wrong += static_cast<float>(y[i]) != x[i] ? 1 : 0;
      EXPECT_EQ(wrong, 0) << name_of(type) << " of " << count;
    }
  }
}

/// Blocks that were quantized once are fixed points.
TEST(LegacyQuantizers, QuantizingAgainChangesNothing) {
  const Numbers x = heavy_tailed(256 * 30, 41);
  for (const ElementType type : kBlockTypes) {
    const std::vector<double> first = decoded(type, quantized(type, x, 256));
    Numbers again(first.size());
    for (std::size_t i = 0; i < again.size(); ++i) again[i] = static_cast<float>(first[i]);
    const std::vector<double> second = decoded(type, quantized(type, again, 256));
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < again.size(); ++i) wrong += static_cast<float>(second[i]) != again[i] ? 1 : 0;
    EXPECT_EQ(wrong, 0) << name_of(type);
  }
}

TEST(LegacyQuantizers, ZerosStayZeros) {
  for (const float zero : {0.0F, -0.0F}) {
    const Numbers x(512, zero);
    const Numbers importance(256, 1.0F);
    for (const ElementType type : kBlockTypes) {
      for (const Numbers* weights : {static_cast<const Numbers*>(nullptr), &importance}) {
        for (const double y : decoded(type, quantized(type, x, 256, weights))) ASSERT_EQ(y, 0.0) << name_of(type);
      }
    }
  }
}

/// One value everywhere: the scale is fitted to it, so only the f16 of the scale is rounded (2^-11). A minimum and a scale
/// together say it finer still. MXFP4's values are a third apart at most.
TEST(LegacyQuantizers, ConstantsAreRoundedByTheirScaleAlone) {
  for (const float value : {1.0F, -1.0F, 0.1234567F, -3.14159274F, 1000.3F, 0.00123F}) {
    const Numbers x(256, value);
    for (const ElementType type : kBlockTypes) {
      const bool affine = type == ElementType::q4_1 || type == ElementType::q5_1;
      const double tolerance = type == ElementType::mxfp4 ? 0.2 : (affine ? 0x1p-20 : 0x1p-11);
      // A subnormal scale is off by 2^-25 at most, times a code.
      const bool bytes = type == ElementType::q8_0 || type == ElementType::iq4_nl;
      const double step = 0x1p-25 * (type == ElementType::iq4_xs ? 32.0 * 127.0 : (bytes ? 127.0 : 1.0));
      for (const double y : decoded(type, quantized(type, x, 256))) {
        ASSERT_NEAR(y, static_cast<double>(value), tolerance * std::abs(static_cast<double>(value)) + step) << name_of(type);
      }
    }
  }
}

/// A small range far from zero: the minimum's f16 steps are larger than the range.
TEST(LegacyQuantizers, NarrowRangesFarFromZeroKeepTheirRange) {
  Numbers x = normal(256, 43, 0.002);
  for (float& value : x) value += 9.0F;
  for (const ElementType type : {ElementType::q4_1, ElementType::q5_1}) {
    const double error = error_of(x, decoded(type, quantized(type, x, 256)), nullptr);
    // With nothing but the nearest f16 (steps of 1/128) as minimum, errors would be of the order of that step.
    EXPECT_LT(std::sqrt(error / 256.0), 0.0015) << name_of(type);
  }
}

TEST(LegacyQuantizers, ValuesBeyondTheLargestScaleBecomeTheLargest) {
  Numbers x(256, 0.0F);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % 2 == 0 ? 3e38F : -3e38F;
  const auto largest_of = [&](ElementType type) {
    double largest = 0.0;
    for (const double y : decoded(type, quantized(type, x, 256))) largest = std::max(largest, std::abs(y));
    return largest;
  };
  EXPECT_EQ(largest_of(ElementType::q8_0), 65504.0 * 127.0);
  EXPECT_EQ(largest_of(ElementType::q4_0), 65504.0 * 8.0);
  EXPECT_EQ(largest_of(ElementType::q5_0), 65504.0 * 16.0);
  EXPECT_GE(largest_of(ElementType::iq4_nl), 65504.0 * 113.0);
  EXPECT_NEAR(largest_of(ElementType::mxfp4), 3e38, 0.15 * 3e38);
}

/// The smallest scale above zero is used where the nearest one would be zero.
TEST(LegacyQuantizers, ValuesBelowTheSmallestScaleUseIt) {
  const Numbers x(32, 0x1p-25F + 0x1p-26F);  // three quarters of the smallest f16
  for (const ElementType type : {ElementType::q4_0, ElementType::q5_0, ElementType::q8_0}) {
    for (const double y : decoded(type, quantized(type, x, 32))) ASSERT_EQ(y, 0x1p-24) << name_of(type);
  }
}

TEST(LegacyQuantizers, OneOutlierIsKeptAndTheRestRounded) {
  Numbers x = normal(32, 47, 0.01);
  x[13] = 5.0F;
  for (const ElementType type : kBlockTypes) {
    if (type == ElementType::iq4_xs) continue;
    const std::vector<double> y = decoded(type, quantized(type, x, 32));
    EXPECT_NEAR(y[13], 5.0, type == ElementType::mxfp4 ? 1.0 : 0.01) << name_of(type);
  }
}

TEST(LegacyQuantizers, ImportancesAllZeroCountAsEqual) {
  const Numbers x = normal(512, 53);
  const Numbers zeros(256, 0.0F);
  const Numbers ones(256, 1.0F);
  const Numbers large(256, 3e38F);
  for (const ElementType type : kBlockTypes) {
    const Bytes expected = quantized(type, x, 256, &ones);
    EXPECT_EQ(quantized(type, x, 256, &zeros), expected) << name_of(type);
    // Only their ratios matter.
    const Numbers small(256, 0x1p-120F);
    EXPECT_EQ(quantized(type, x, 256, &small), expected) << name_of(type);
    for (const double y : decoded(type, quantized(type, x, 256, &large))) ASSERT_TRUE(std::isfinite(y)) << name_of(type);
  }
}

/// Elements whose importance outweighs all others are met better than without it.
TEST(LegacyQuantizers, ImportantElementsAreMetBetter) {
  const Numbers x = normal(256 * 16, 59);
  Numbers importance(256, 1.0F);
  for (std::size_t i = 5; i < importance.size(); i += 32) importance[i] = 1e5F;
  for (const ElementType type : kBlockTypes) {
    if (type == ElementType::mxfp4) continue;  // powers of two leave little to choose
    const std::vector<double> equal = decoded(type, quantized(type, x, 256));
    const std::vector<double> weighted = decoded(type, quantized(type, x, 256, &importance));
    double equal_error = 0.0;
    double weighted_error = 0.0;
    for (std::size_t i = 5; i < x.size(); i += 32) {
      equal_error += std::pow(static_cast<double>(x[i]) - equal[i], 2);
      weighted_error += std::pow(static_cast<double>(x[i]) - weighted[i], 2);
    }
    EXPECT_LT(weighted_error, 0.25 * equal_error) << name_of(type);
  }
}

TEST(LegacyQuantizers, PlainNumbersAreRoundedAsOneAtATime) {
  for (const std::int64_t cols : {1, 7, 8, 15, 16, 17, 1000}) {
    Numbers x = made(
        static_cast<std::size_t>(3 * cols),
        [](std::mt19937& engine) {
          return std::normal_distribution<double>()(engine) * std::exp2(static_cast<double>(engine() % 60) - 40.0);
        },
        static_cast<std::uint32_t>(cols));
    x[0] = 65519.0F;
    const Bytes half = quantized(ElementType::f16, x, cols);
    const Bytes brain = quantized(ElementType::bf16, x, cols);
    const Bytes whole = quantized(ElementType::f32, x, cols);
    EXPECT_EQ(std::memcmp(whole.data(), x.data(), whole.size()), 0);
    for (std::size_t i = 0; i < x.size(); ++i) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, half.data() + 2 * i, 2);
      const float limited = std::clamp(x[i], -65504.0F, 65504.0F);
      ASSERT_EQ(bits, f16_from_float(limited)) << x[i];
      std::memcpy(&bits, brain.data() + 2 * i, 2);
      ASSERT_EQ(bits, bf16_from_float(x[i]).bits) << x[i];
    }
  }
  const Numbers largest = {std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(), 1e6F, -1e6F};
  EXPECT_EQ(decoded(ElementType::f16, quantized(ElementType::f16, largest, 4)),
            (std::vector<double>{65504.0, -65504.0, 65504.0, -65504.0}));
  for (const double y : decoded(ElementType::bf16, quantized(ElementType::bf16, largest, 4))) EXPECT_TRUE(std::isfinite(y));
}

}  // namespace
}  // namespace quern
