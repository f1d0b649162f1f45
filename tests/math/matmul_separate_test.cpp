// Products whose epilogue is passes of its own (Backend::fused false) against the same products in one.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "math/matmul.hpp"
#include "math/number_formats.hpp"
#include "support/matmul_reference.hpp"

namespace quern {
namespace {

constexpr std::int64_t kRows = 19, kInputs = 48, kOutputs = 1100;  // more columns than a pass holds at a time

std::vector<float> numbers(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

/// What a product wrote: its result, and what the epilogue keeps besides.
struct Written {
  std::vector<float> out, kept, second;
  bool operator==(const Written&) const = default;
};

/// y = activation(x W^T + bias) + residual and x W^T + bias, f32.
Written forward(const Backend& backend, int threads, Activation activation, bool accumulates) {
  const std::vector<float> x = numbers(kRows * kInputs, 1), w = numbers(kOutputs * kInputs, 2), bias = numbers(kOutputs, 3);
  const std::vector<float> residual = numbers(kRows * kOutputs, 4);
  Written written{residual, std::vector<float>(residual.size()), {}};
  if (!accumulates) written.out.assign(residual.size(), -1.0F);
  const Weight weight{
      .type = ElementType::f32, .rows = kOutputs, .cols = kInputs, .forward = w.data(), .backward = w.data()};
  test::run(threads, backend, kOutputs, [&](Exec& exec) {
    matmul_forward(exec, {x.data(), ElementType::f32, kRows, kInputs, kInputs}, weight,
                   {written.out.data(), ElementType::f32, kRows, kOutputs, kOutputs},
                   {.bias = bias.data(),
                    .activation = activation,
                    .pre_activation = accumulates ? nullptr : written.kept.data(),
                    .pre_activation_stride = kOutputs,
                    .residual = accumulates ? written.out.data() : residual.data(),
                    .residual_stride = kOutputs});
  });
  return written;
}

/// dx = (dy W) activation'(pre), and activation(pre) in the place of pre. W is [kInputs, kOutputs] here.
Written backward(const Backend& backend, int threads) {
  const std::vector<float> dy = numbers(kRows * kInputs, 5), w = numbers(kInputs * kOutputs, 6);
  Written written{std::vector<float>(static_cast<std::size_t>(kRows * kOutputs)), numbers(kRows * kOutputs, 7),
                  std::vector<float>(static_cast<std::size_t>(kRows * kOutputs))};
  const Weight weight{
      .type = ElementType::f32, .rows = kInputs, .cols = kOutputs, .forward = w.data(), .backward = w.data()};
  test::run(threads, backend, kOutputs, [&](Exec& exec) {
    matmul_backward_input(exec, {dy.data(), ElementType::f32, kRows, kInputs, kInputs}, weight,
                          {written.out.data(), ElementType::f32, kRows, kOutputs, kOutputs},
                          {.activation = Activation::gelu_tanh,
                           .activation_input = written.kept.data(),
                           .activation_input_stride = kOutputs,
                           .activation_output = written.kept.data(),
                           .activation_output_stride = kOutputs,
                           .kept_output = written.second.data()});
  });
  return written;
}

TEST(MatmulSeparate, PassesOfTheirOwnGiveTheSameBitsInF32) {
  for (const test::Path& path : test::paths(false)) {
    Backend apart = path.backend;
    apart.fused = false;
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(path.name() + ", " + std::to_string(threads) + " threads");
      for (const Activation activation : {Activation::none, Activation::gelu_tanh, Activation::silu}) {
        EXPECT_TRUE(forward(path.backend, 1, activation, false) == forward(apart, threads, activation, false));
      }
      EXPECT_TRUE(forward(path.backend, 1, Activation::none, true) == forward(apart, threads, Activation::none, true))
          << "a product that accumulates stays as it is";
      EXPECT_TRUE(backward(path.backend, 1) == backward(apart, threads));
    }
  }
}

// Eigen takes other functions for activations where it ends a product itself.
TEST(MatmulSeparate, EigensPassesAgreeWithinRounding) {
  const test::Path path = test::paths().back();
  ASSERT_TRUE(path.backend.eigen);
  Backend apart = path.backend;
  apart.fused = false;
  const auto expect_near = [](const std::vector<float>& want, const std::vector<float>& got) {
    ASSERT_EQ(want.size(), got.size());
    for (std::size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-5F * (1.0F + std::abs(want[i]))) << i;
  };
  const Written whole = forward(path.backend, 1, Activation::gelu_tanh, false),
                parts = forward(apart, 2, Activation::gelu_tanh, false);
  expect_near(whole.out, parts.out);
  expect_near(whole.kept, parts.kept);
  const Written back = backward(path.backend, 1), back_parts = backward(apart, 2);
  expect_near(back.out, back_parts.out);
  expect_near(back.kept, back_parts.kept);
  expect_near(back.second, back_parts.second);
}

// bf16: the sum is rounded before each pass and not once: at most one more rounding of 2^-9 a pass.
TEST(MatmulSeparate, PassesRoundBf16MoreOften) {
  const std::vector<float> x = numbers(kRows * kInputs, 1), w = numbers(kOutputs * kInputs, 2), bias = numbers(kOutputs, 3);
  const Weight weight{
      .type = ElementType::f32, .rows = kOutputs, .cols = kInputs, .forward = w.data(), .backward = w.data()};
  for (const test::Path& path : test::paths(false)) {
    SCOPED_TRACE(path.name());
    std::vector<bf16> out[2];
    for (const bool fused : {true, false}) {
      Backend backend = path.backend;
      backend.fused = fused;
      std::vector<bf16>& to = out[fused ? 0 : 1];
      to.resize(static_cast<std::size_t>(kRows * kOutputs));
      test::run(2, backend, kOutputs, [&](Exec& exec) {
        matmul_forward(exec, {x.data(), ElementType::f32, kRows, kInputs, kInputs}, weight,
                       {to.data(), ElementType::bf16, kRows, kOutputs, kOutputs}, {.bias = bias.data()});
      });
    }
    std::size_t different = 0;
    for (std::size_t i = 0; i < out[0].size(); ++i) {
      const float whole = float_from_bf16(out[0][i]), parts = float_from_bf16(out[1][i]);
      const float size = std::abs(whole) + std::abs(bias[i % static_cast<std::size_t>(kOutputs)]);
      ASSERT_NEAR(whole, parts, size * 0x1p-7F);
      if (whole != parts) ++different;
    }
    EXPECT_GT(different, 0U) << "a pass of its own rounds the sum";
  }
}

}  // namespace
}  // namespace quern
