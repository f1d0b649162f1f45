// The three products of every instruction-set path and of the Eigen backend against plain loops in double.
#include "math/matmul.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "support/matmul_reference.hpp"

namespace quern {
namespace {

using namespace test;

struct Shape {
  std::int64_t m, n, k;
};

std::ostream& operator<<(std::ostream& os, const Shape& s) { return os << "M " << s.m << " N " << s.n << " K " << s.k; }

/// What a weight is in the compute type.
double weight_value(const Matrix& w, ComputeType compute, std::int64_t i, std::int64_t j) {
  return compute == ComputeType::bf16 ? widen(narrow(w.get(i, j))) : w.get(i, j);
}

enum class Product { forward, backward_input };

/// y = x W^T or dx = dy W against double, for packed (or plain) weights. In both k is the reduction and n the outputs.
void check_product(const Path& path, ComputeType compute, Product kind, Shape s, std::int64_t pad, ElementType out_type,
                   bool plain) {
  SCOPED_TRACE(testing::Message() << path.name() << (compute == ComputeType::bf16 ? " bf16 " : " f32 ") << s << " pad "
                                  << pad << (kind == Product::forward ? " forward" : " backward input")
                                  << (plain ? " plain" : ""));
  std::mt19937 random(static_cast<std::uint32_t>(s.m * 10007 + s.n * 101 + s.k));
  Matrix a(element_type(compute), s.m, s.k, pad);
  Matrix w(ElementType::f32, kind == Product::forward ? s.n : s.k, kind == Product::forward ? s.k : s.n, 0);
  Matrix c(out_type, s.m, s.n, pad);
  a.fill(random);
  w.fill(random);
  PackedWeight packed;
  if (plain) {
    packed.weight = {ElementType::f32, WeightLayout::plain, w.rows, w.cols, w.f32.data(), w.f32.data()};
  } else {
    packed = pack(path.backend, compute, w);
  }
  run(1, path.backend, std::max({s.m, s.n, s.k}), [&](Exec& exec) {
    if (kind == Product::forward) {
      matmul_forward(exec, a.view(), packed.weight, c.out());
    } else {
      matmul_backward_input(exec, a.view(), packed.weight, c.out());
    }
  });
  // Eigen computes from plain f32 weights as they are.
  const ComputeType precision = plain && path.backend.eigen ? ComputeType::f32 : compute;
  for (std::int64_t i = 0; i < s.m; ++i) {
    for (std::int64_t j = 0; j < s.n; ++j) {
      double sum = 0.0;
      double magnitude = 0.0;
      for (std::int64_t k = 0; k < s.k; ++k) {
        const double wv = kind == Product::forward ? weight_value(w, precision, j, k) : weight_value(w, precision, k, j);
        sum += a.get(i, k) * wv;
        magnitude += std::abs(a.get(i, k) * wv);
      }
      ASSERT_NEAR(c.get(i, j), sum, tolerance(s.k, magnitude, out_type, sum)) << "element " << i << ", " << j;
    }
  }
  c.expect_padding_untouched();
}

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {0, 5, 7},    {3, 0, 7},    {3, 5, 0},    {1, 1, 1},     {1, 1, 2},     {2, 3, 1},     {5, 7, 3},     {13, 31, 33},
      {14, 32, 32}, {15, 33, 31}, {16, 16, 16}, {17, 47, 63},  {31, 48, 64},  {32, 64, 65},  {33, 65, 127}, {6, 15, 40},
      {7, 17, 39},  {1, 200, 70}, {40, 96, 96}, {3, 40, 1100}, {33, 70, 513}, {290, 33, 40}, {34, 4200, 9}};
  return all;
}

TEST(Matmul, ForwardMatchesDouble) {
  for (const Path& path : paths()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      for (const Shape& s : shapes()) {
        check_product(path, compute, Product::forward, s, 0, ElementType::f32, false);
        check_product(path, compute, Product::forward, s, 3, ElementType::bf16, false);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Matmul, BackwardInputMatchesDouble) {
  for (const Path& path : paths()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      for (const Shape& s : shapes()) {
        check_product(path, compute, Product::backward_input, s, 5, ElementType::f32, false);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Matmul, PlainWeightsMatchDouble) {
  for (const Path& path : paths()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      for (const Shape& s : {Shape{1, 70, 600}, Shape{5, 33, 31}, Shape{40, 65, 70}}) {
        check_product(path, compute, Product::forward, s, 0, ElementType::f32, true);
        check_product(path, compute, Product::backward_input, s, 0, ElementType::f32, true);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Matmul, AwkwardStridesMatchDouble) {
  for (const Path& path : paths(false)) {
    // Rows whose starts share cache sets, and wide products: tiles of A are copied.
    check_product(path, ComputeType::f32, Product::forward, {30, 300, 500}, 12, ElementType::f32, false);
    check_product(path, ComputeType::bf16, Product::forward, {70, 300, 900}, 124, ElementType::bf16, false);
  }
}

/// The derivative of x / (1 + exp(-x)).
double silu_slope(double x) {
  const double s = 1.0 / (1.0 + std::exp(-x));
  return s * (1.0 + x * (1.0 - s));
}

TEST(Matmul, ActivationGradientsEndAProduct) {
  for (const Path& path : paths()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      SCOPED_TRACE(testing::Message() << path.name() << (compute == ComputeType::bf16 ? " bf16" : " f32"));
      const Shape s{45, 70, 39};
      std::mt19937 random(5);
      Matrix dy(element_type(compute), s.m, s.k, 1);
      Matrix w(ElementType::f32, s.k, s.n, 0);
      Matrix pre(element_type(compute), s.m, s.n, 2);
      Matrix sums(ElementType::f32, s.m, s.n, 0);
      Matrix dx(element_type(compute), s.m, s.n, 3);
      Matrix act(element_type(compute), s.m, s.n, 4);
      Matrix kept(element_type(compute), s.m, s.n, 3);
      dy.fill(random);
      w.fill(random);
      pre.fill(random);
      const PackedWeight packed = pack(path.backend, compute, w);
      run(1, path.backend, s.n, [&](Exec& exec) {
        matmul_backward_input(exec, dy.view(), packed.weight, sums.out());
        matmul_backward_input(exec, dy.view(), packed.weight, dx.out(),
                              {.activation = Activation::silu,
                               .activation_input = pre.view().data,
                               .activation_input_stride = pre.view().row_stride,
                               .activation_output = act.data(),
                               .activation_output_stride = act.stride,
                               .kept_output = kept.data()});
      });
      for (std::int64_t i = 0; i < s.m; ++i) {
        for (std::int64_t j = 0; j < s.n; ++j) {
          const double expected = sums.get(i, j) * silu_slope(pre.get(i, j));
          ASSERT_NEAR(dx.get(i, j), expected, tolerance(1, std::abs(sums.get(i, j)), dx.type, expected));
          ASSERT_EQ(kept.get(i, j), dx.get(i, j));
          const double silu = pre.get(i, j) / (1.0 + std::exp(-pre.get(i, j)));
          ASSERT_NEAR(act.get(i, j), silu, tolerance(8, std::abs(silu), act.type, silu));
        }
      }
      dx.expect_padding_untouched();
      act.expect_padding_untouched();
      kept.expect_padding_untouched();
    }
  }
}

TEST(Matmul, PlainHalfPrecisionWeights) {
  std::mt19937 random(7);
  Matrix x(ElementType::f32, 5, 37, 0);
  x.fill(random);
  Matrix y(ElementType::f32, 5, 19, 0);
  std::vector<std::uint16_t> halves(19 * 37);
  std::vector<double> values(halves.size());
  for (std::size_t i = 0; i < halves.size(); ++i) {  // sign, exponents 2^-3 .. 2^0 or a subnormal, ten bits
    const std::uint32_t mantissa = random() & 0x3ffU;
    const std::uint32_t exponent = i % 5 == 0 ? 0U : 12U + random() % 4U;
    const std::uint32_t sign = random() & 1U;
    halves[i] = static_cast<std::uint16_t>((sign << 15) | (exponent << 10) | mantissa);
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, static_cast<int>(exponent) - 25);
    values[i] = sign != 0 ? -magnitude : magnitude;
  }
  const Weight w{ElementType::f16, WeightLayout::plain, 19, 37, halves.data(), halves.data()};
  for (const Path& path : paths()) {
    run(1, path.backend, 64, [&](Exec& exec) { matmul_forward(exec, x.view(), w, y.out()); });
    for (std::int64_t i = 0; i < 5; ++i) {
      for (std::int64_t j = 0; j < 19; ++j) {
        double sum = 0.0;
        double magnitude = 0.0;
        for (std::int64_t k = 0; k < 37; ++k) {
          const double product = x.get(i, k) * values[static_cast<std::size_t>(j * 37 + k)];
          sum += product;
          magnitude += std::abs(product);
        }
        ASSERT_NEAR(y.get(i, j), sum, tolerance(37, magnitude, ElementType::f32, sum)) << path.name();
      }
    }
  }
}

void check_weight_gradient(const Path& path, ComputeType compute, Shape s, std::int64_t pad, bool accumulate) {
  SCOPED_TRACE(testing::Message() << path.name() << (compute == ComputeType::bf16 ? " bf16 " : " f32 ") << s << " pad "
                                  << pad);
  std::mt19937 random(static_cast<std::uint32_t>(s.m * 31 + s.n * 101 + s.k));
  Matrix dy(element_type(compute), s.m, s.n, pad);
  Matrix x(element_type(compute), s.m, s.k, pad + 1);
  Matrix dw(ElementType::f32, s.n, s.k, 0);
  Matrix dbias(ElementType::f32, 1, s.n, 0);
  dy.fill(random);
  x.fill(random);
  dw.fill(random);
  dbias.fill(random);
  const Matrix dw_before = dw;
  const Matrix dbias_before = dbias;
  run(1, path.backend, std::max({s.m, s.n, s.k}),
      [&](Exec& exec) { matmul_backward_weight(exec, dy.view(), x.view(), dw.f32.data(), dbias.f32.data(), accumulate); });
  for (std::int64_t i = 0; i < s.n; ++i) {
    double bias = accumulate ? dbias_before.get(0, i) : 0.0;
    double bias_magnitude = std::abs(bias);
    for (std::int64_t m = 0; m < s.m; ++m) {
      bias += dy.get(m, i);
      bias_magnitude += std::abs(dy.get(m, i));
    }
    ASSERT_NEAR(dbias.get(0, i), bias, tolerance(s.m, bias_magnitude, ElementType::f32, bias)) << "bias " << i;
    for (std::int64_t j = 0; j < s.k; ++j) {
      double sum = accumulate ? dw_before.get(i, j) : 0.0;
      double magnitude = std::abs(sum);
      for (std::int64_t m = 0; m < s.m; ++m) {
        const double product = static_cast<double>(dy.get(m, i)) * x.get(m, j);
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(dw.get(i, j), sum, tolerance(s.m, magnitude, ElementType::f32, sum)) << "element " << i << ", " << j;
    }
  }
}

TEST(Matmul, WeightGradientMatchesDouble) {
  const std::vector<Shape> gradient_shapes = {{0, 5, 7},     {1, 1, 1},      {2, 3, 5},     {3, 5, 0},      {31, 14, 32},
                                              {32, 13, 31},  {33, 15, 33},   {65, 47, 63},  {63, 33, 40},   {64, 64, 64},
                                              {513, 20, 40}, {1030, 35, 33}, {70, 230, 35}, {300, 113, 70}, {290, 29, 112}};
  for (const Path& path : paths()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      for (const Shape& s : gradient_shapes) {
        check_weight_gradient(path, compute, s, 3, false);
        check_weight_gradient(path, compute, s, 0, true);
        if (HasFatalFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace quern
