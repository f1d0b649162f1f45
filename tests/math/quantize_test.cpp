// Quantizing tensors: bytes and error sums against plain loops, and that neither threads nor instruction set change them.
#include "math/quantize.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "math/block_formats.hpp"
#include "support/block_reference.hpp"

namespace quern {
namespace {

std::vector<float> normal(std::int64_t count, std::uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> draw;
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& value : x) value = draw(engine);
  return x;
}

struct Quantized {
  std::vector<std::byte> bytes;
  QuantizationError error;
};

Quantized quantized(const KernelTable& kernels, int threads, ElementType type, const std::vector<float>& x,
                    std::int64_t cols, const std::vector<float>* importance) {
  Quantized result;
  result.bytes.resize(bytes_of(type, static_cast<std::int64_t>(x.size())).value());
  ThreadTeam team(threads);
  result.error = quantize(kernels, team,
                          {.type = type,
                           .x = x.data(),
                           .rows = static_cast<std::int64_t>(x.size()) / cols,
                           .cols = cols,
                           .importance = importance == nullptr ? nullptr : importance->data(),
                           .out = result.bytes.data()});
  return result;
}

bool same(const QuantizationError& a, const QuantizationError& b) {
  return a.squared_error == b.squared_error && a.squared_value == b.squared_value &&
         a.weighted_squared_error == b.weighted_squared_error && a.weighted_squared_value == b.weighted_squared_value &&
         a.finite == b.finite;
}

TEST(Quantize, SaysWhichTypesItWrites) {
  const std::vector<std::string> expected = {"F32",  "F16",  "Q4_0", "Q4_1", "Q5_0",   "Q5_1",   "Q8_0", "Q2_K",
                                             "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "BF16", "MXFP4"};
  std::vector<std::string> found;
  for (const BlockFormat& format : block_formats()) {
    if (can_quantize(format.type)) found.emplace_back(format.name);
  }
  EXPECT_EQ(found, expected);
}

/// Rows that are short, long (cut into several tasks, the last of them partial), and many.
TEST(Quantize, BytesAndSumsAreThoseOfPlainLoopsWhateverComputesThem) {
  struct Shape {
    std::int64_t rows;
    std::int64_t cols;
  };
  for (const Shape shape : {Shape{1, 256}, Shape{300, 256}, Shape{3, 4096 + 256}, Shape{2, 65536 + 512}}) {
    const std::vector<float> x = normal(shape.rows * shape.cols, static_cast<std::uint32_t>(shape.cols));
    std::vector<float> importance = normal(shape.cols, 3);
    for (float& weight : importance) weight = weight * weight;
    for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::q8_0, ElementType::q4_1,
                                   ElementType::mxfp4, ElementType::q4_k, ElementType::q6_k}) {
      for (const std::vector<float>* weights :
           {static_cast<const std::vector<float>*>(nullptr), &std::as_const(importance)}) {
        const std::string what = std::string(block_format(type).name) + " " + std::to_string(shape.rows) + " x " +
                                 std::to_string(shape.cols) + (weights == nullptr ? "" : " with importance");
        const Quantized first = quantized(*supported_kernels().front(), 1, type, x, shape.cols, weights);
        const Quantized second = quantized(*supported_kernels().front(), 3, type, x, shape.cols, weights);
        EXPECT_EQ(second.bytes, first.bytes) << what;
        EXPECT_TRUE(same(second.error, first.error)) << what;
        if (shape.rows == 3 || shape.rows == 1) {
          for (const KernelTable* kernels : supported_kernels()) {
            const Quantized other = quantized(*kernels, 2, type, x, shape.cols, weights);
            EXPECT_EQ(other.bytes, first.bytes) << what << " " << isa_name(kernels->isa);
            EXPECT_TRUE(same(other.error, first.error)) << what << " " << isa_name(kernels->isa);
          }
        }
        QuantizationError expected;
        const std::vector<double> y = decode_reference(type, first.bytes);
        for (std::size_t i = 0; i < x.size(); ++i) {
          const double value = static_cast<double>(x[i]);
          const double e = value - static_cast<double>(static_cast<float>(y[i]));
          const double w =
              weights == nullptr ? 1.0 : static_cast<double>((*weights)[i % static_cast<std::size_t>(shape.cols)]);
          expected.squared_error += e * e;
          expected.squared_value += value * value;
          expected.weighted_squared_error += w * e * e;
          expected.weighted_squared_value += w * value * value;
        }
        // n additions of positive numbers in double: n units in the last place at most.
        const double tolerance = static_cast<double>(x.size()) * std::numeric_limits<double>::epsilon();
        EXPECT_NEAR(first.error.squared_error, expected.squared_error, tolerance * expected.squared_error) << what;
        EXPECT_NEAR(first.error.squared_value, expected.squared_value, tolerance * expected.squared_value) << what;
        EXPECT_NEAR(first.error.weighted_squared_error, expected.weighted_squared_error,
                    tolerance * expected.weighted_squared_error)
            << what;
        EXPECT_NEAR(first.error.weighted_squared_value, expected.weighted_squared_value,
                    tolerance * expected.weighted_squared_value)
            << what;
        EXPECT_TRUE(first.error.finite) << what;
      }
    }
  }
}

TEST(Quantize, FindsValuesThatAreNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (const std::size_t at : {std::size_t{0}, std::size_t{517}, std::size_t{1023}}) {
      for (const BlockFormat& format : block_formats()) {
        if (!can_quantize(format.type)) continue;
        std::vector<float> x = normal(1024, 5);
        x[at] = bad;
        EXPECT_FALSE(quantized(*supported_kernels().front(), 2, format.type, x, 512, nullptr).error.finite) << format.name;
      }
    }
  }
}

TEST(Quantize, NothingToDoIsNoError) {
  ThreadTeam team(2);
  for (const std::int64_t rows : {0, 3}) {
    const QuantizationError error =
        quantize(*supported_kernels().front(), team, {.type = ElementType::q4_0, .rows = rows, .cols = rows == 0 ? 64 : 0});
    EXPECT_TRUE(error.finite);
    EXPECT_EQ(error.relative_rms(), 0.0);
  }
}

TEST(QuantizationErrors, AddUpAndRelateToTheValues) {
  QuantizationError a{
      .squared_error = 1.0, .squared_value = 50.0, .weighted_squared_error = 2.0, .weighted_squared_value = 8.0};
  const QuantizationError b{.squared_error = 3.0,
                            .squared_value = 50.0,
                            .weighted_squared_error = 7.0,
                            .weighted_squared_value = 28.0,
                            .finite = false};
  a += b;
  EXPECT_DOUBLE_EQ(a.relative_rms(), 0.2);
  EXPECT_DOUBLE_EQ(a.weighted_relative_rms(), 0.5);
  EXPECT_FALSE(a.finite);
  EXPECT_EQ(QuantizationError{}.relative_rms(), 0.0);
  EXPECT_EQ(QuantizationError{}.weighted_relative_rms(), 0.0);
}

}  // namespace
}  // namespace quern
