// Bits that must not move: a row alone has the bits it has in a batch, any number of threads gives the same bits, and the
// fused epilogue does what its separate steps would do.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "support/matmul_reference.hpp"

namespace quern {
namespace {

using namespace test;

constexpr Activation kActivations[] = {Activation::none, Activation::gelu_tanh, Activation::gelu_erf, Activation::silu,
                                       Activation::relu2};

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::none:
      break;
    case Activation::gelu_tanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu_erf:
      return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case Activation::silu:
      return x / (1.0 + std::exp(-x));
    case Activation::relu2:
      return x > 0.0 ? x * x : 0.0;
  }
  return x;
}

/// Inputs and outputs of a forward product with everything that an epilogue can have.
struct Fused {
  Matrix x, w, bias, residual, y, pre;
  Fused(ComputeType compute, ElementType out, std::int64_t m, std::int64_t n, std::int64_t k)
      : x(element_type(compute), m, k, 1),
        w(ElementType::f32, n, k, 0),
        bias(ElementType::f32, 1, n, 0),
        residual(ElementType::f32, m, n, 2),
        y(out, m, n, 5),
        pre(out, m, n, 4) {
    std::mt19937 random(static_cast<std::uint32_t>(m + 7 * n + 31 * k));
    for (Matrix* matrix : {&x, &w, &bias, &residual}) matrix->fill(random);
  }
  Epilogue epilogue(Activation activation) {
    return {.bias = bias.f32.data(),
            .activation = activation,
            .pre_activation = pre.data(),
            .pre_activation_stride = pre.stride,
            .residual = residual.f32.data(),
            .residual_stride = residual.stride};
  }
};

TEST(MatmulRows, EpilogueMatchesDouble) {
  for (const Path& path : paths()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      for (const ElementType out : {ElementType::f32, ElementType::bf16}) {
        for (const Activation activation : kActivations) {
          constexpr std::int64_t kM = 35, kN = 70, kK = 33;
          SCOPED_TRACE(path.name() + " activation " + std::to_string(static_cast<int>(activation)));
          Fused f(compute, out, kM, kN, kK);
          const PackedWeight packed = pack(path.backend, compute, f.w);
          run(1, path.backend, kN,
              [&](Exec& exec) { matmul_forward(exec, f.x.view(), packed.weight, f.y.out(), f.epilogue(activation)); });
          for (std::int64_t i = 0; i < kM; ++i) {
            for (std::int64_t j = 0; j < kN; ++j) {
              double sum = f.bias.get(0, j);
              double magnitude = std::abs(sum);
              for (std::int64_t k = 0; k < kK; ++k) {
                const double wv = compute == ComputeType::bf16 ? widen(narrow(f.w.get(j, k))) : f.w.get(j, k);
                sum += f.x.get(i, k) * wv;
                magnitude += std::abs(f.x.get(i, k) * wv);
              }
              const double expected = activate(activation, sum) + f.residual.get(i, j);
              ASSERT_NEAR(f.pre.get(i, j), sum, tolerance(kK, magnitude, out, sum)) << i << ", " << j;
              // The activation's slope is at most 2 |sum| (relu2) or 1.13; its own error 1e-6 absolute, 1e-6 relative.
              const double slope = activation == Activation::relu2 ? 2.0 * std::abs(sum) + 1e-3 : 1.13;
              const double error = slope * tolerance(kK, magnitude, ElementType::f32, sum) + 1e-6 +
                                   1e-6 * std::abs(expected) +
                                   (out == ElementType::bf16 ? std::abs(expected) * 0x1p-8 : 0.0);
              ASSERT_NEAR(f.y.get(i, j), expected, error) << i << ", " << j;
            }
          }
          f.y.expect_padding_untouched();
          f.pre.expect_padding_untouched();
        }
      }
    }
  }
}

TEST(MatmulRows, ResidualMayBeTheOutput) {
  for (const Path& path : paths()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      SCOPED_TRACE(path.name());
      Fused f(compute, ElementType::f32, 37, 75, 600);
      const PackedWeight packed = pack(path.backend, compute, f.w);
      Matrix accumulated = f.residual;
      run(1, path.backend, 600, [&](Exec& exec) {
        matmul_forward(exec, f.x.view(), packed.weight, f.y.out(),
                       {.residual = f.residual.f32.data(), .residual_stride = f.residual.stride});
        matmul_forward(exec, f.x.view(), packed.weight, accumulated.out(),
                       {.residual = accumulated.f32.data(), .residual_stride = accumulated.stride});
      });
      for (std::int64_t i = 0; i < 37; ++i) {
        for (std::int64_t j = 0; j < 75; ++j) ASSERT_EQ(accumulated.get(i, j), f.y.get(i, j)) << i << ", " << j;
      }
      accumulated.expect_padding_untouched();
    }
  }
}

/// Rows [row, row + count) of the product alone must equal those rows of the whole.
void expect_rows_alone_equal(const Path& path, ComputeType compute, ElementType out, Activation activation, bool fused,
                             std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t count) {
  SCOPED_TRACE(testing::Message() << path.name() << (compute == ComputeType::bf16 ? " bf16" : " f32") << " M " << m
                                  << " alone " << count);
  Fused f(compute, out, m, n, k);
  const PackedWeight packed = pack(path.backend, compute, f.w);
  Fused alone(compute, out, m, n, k);
  run(1, path.backend, std::max({m, n, k}), [&](Exec& exec) {
    matmul_forward(exec, f.x.view(), packed.weight, f.y.out(), fused ? f.epilogue(activation) : Epilogue{});
    for (std::int64_t row = 0; row < m; row += count) {
      const std::int64_t rows = std::min(count, m - row);
      const std::int64_t bytes = out == ElementType::bf16 ? 2 : 4;
      Epilogue epilogue = fused ? alone.epilogue(activation) : Epilogue{};
      if (fused) {
        epilogue.pre_activation = static_cast<char*>(epilogue.pre_activation) + row * epilogue.pre_activation_stride * bytes;
        epilogue.residual += row * epilogue.residual_stride;
      }
      matmul_forward(exec, f.x.rows_view(row, rows), packed.weight,
                     {.data = static_cast<char*>(alone.y.data()) + row * alone.y.stride * bytes,
                      .type = out,
                      .rows = rows,
                      .cols = n,
                      .row_stride = alone.y.stride},
                     epilogue);
    }
  });
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) ASSERT_EQ(alone.y.get(i, j), f.y.get(i, j)) << "element " << i << ", " << j;
    if (!fused) continue;
    for (std::int64_t j = 0; j < n; ++j) ASSERT_EQ(alone.pre.get(i, j), f.pre.get(i, j)) << "element " << i << ", " << j;
  }
}

TEST(MatmulRows, ARowAloneHasTheBitsOfTheBatch) {
  for (const Path& path : paths(false)) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      for (std::int64_t m = 1; m <= 40; ++m) {
        const Activation activation = kActivations[m % 5];
        const ElementType out = m % 2 == 0 ? ElementType::f32 : ElementType::bf16;
        expect_rows_alone_equal(path, compute, out, activation, m % 3 != 0, m, 70, 75, 1);
        if (HasFatalFailure()) return;
      }
      expect_rows_alone_equal(path, compute, ElementType::f32, Activation::none, false, 40, 200, 1100, 1);
      expect_rows_alone_equal(path, compute, ElementType::bf16, Activation::gelu_tanh, true, 300, 64, 64, 37);
    }
  }
}

TEST(MatmulRows, ThreadsDoNotChangeBits) {
  constexpr std::int64_t kM = 600, kN = 150, kK = 530;
  for (const Path& path : paths(false)) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      SCOPED_TRACE(path.name());
      std::mt19937 random(3);
      Matrix x(element_type(compute), kM, kK, 0);
      Matrix dy(element_type(compute), kM, kN, 0);
      Matrix w(ElementType::f32, kN, kK, 0);
      for (Matrix* matrix : {&x, &dy, &w}) matrix->fill(random);
      struct Results {
        Matrix y{ElementType::bf16, kM, kN, 0}, dx{ElementType::f32, kM, kK, 0}, dw{ElementType::f32, kN, kK, 0},
            dbias{ElementType::f32, 1, kN, 0};
      };
      Results one;
      for (const int threads : {1, 2, 4}) {
        const PackedWeight packed = pack(path.backend, compute, w, threads);
        Results r;
        run(threads, path.backend, kM, [&](Exec& exec) {
          matmul_forward(exec, x.view(), packed.weight, r.y.out(), {.activation = Activation::silu});
          matmul_backward_input(exec, dy.view(), packed.weight, r.dx.out());
          matmul_backward_weight(exec, dy.view(), x.view(), r.dw.f32.data(), r.dbias.f32.data(), false);
          matmul_backward_weight(exec, dy.view(), x.view(), r.dw.f32.data(), r.dbias.f32.data(), true);
        });
        if (threads == 1) {
          one = r;
          continue;
        }
        for (std::size_t i = 0; i < r.y.b16.size(); ++i) ASSERT_EQ(r.y.b16[i].bits, one.y.b16[i].bits) << "y " << i;
        ASSERT_EQ(r.dx.f32, one.dx.f32) << threads;
        ASSERT_EQ(r.dw.f32, one.dw.f32) << threads;
        ASSERT_EQ(r.dbias.f32, one.dbias.f32) << threads;
      }
    }
  }
}

/// Of packed weights: more rows than the most that fit a task, and fewer.
TEST(MatmulRows, BlockSizesDoNotChangeBits) {
  constexpr std::int64_t kM = 700, kN = 150, kK = 530;
  for (const Path& path : paths(false)) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      SCOPED_TRACE(path.name());
      std::mt19937 random(3);
      Matrix x(element_type(compute), kM, kK, 0);
      Matrix w(ElementType::f32, kN, kK, 0);
      for (Matrix* matrix : {&x, &w}) matrix->fill(random);
      const PackedWeight packed = pack(path.backend, compute, w, 1);
      Matrix whole(ElementType::f32, kM, kN, 0);
      run(2, path.backend, kM, [&](Exec& exec) { matmul_forward(exec, x.view(), packed.weight, whole.out()); });
      for (const std::int64_t block_rows : {16, 100, 640, 2048}) {
        Backend backend = path.backend;
        backend.blocks.block_rows = block_rows;
        Matrix y(ElementType::f32, kM, kN, 0);
        run(2, backend, kM, [&](Exec& exec) { matmul_forward(exec, x.view(), packed.weight, y.out()); });
        EXPECT_EQ(y.f32, whole.f32) << block_rows;
      }
    }
  }
}

// A product with some of W's rows gives those columns of the whole product, for packs and for weights as in files.
TEST(MatmulRows, PartsOfTheWeightGiveTheirColumns) {
  constexpr std::int64_t kM = 37, kN = 3 * kWeightRowUnit + 5, kK = 96;
  for (const Path& path : paths(false)) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      for (const bool plain : {false, true}) {
        SCOPED_TRACE(path.name() + (plain ? " plain" : " packed"));
        Fused f(compute, ElementType::f32, kM, kN, kK);
        Matrix x(plain ? ElementType::f32 : element_type(compute), kM, kK, 0);
        std::mt19937 random(5);
        x.fill(random);
        const PackedWeight packed = pack(path.backend, compute, f.w);
        const Weight weight =
            plain ? Weight{.rows = kN, .cols = kK, .forward = f.w.data(), .backward = f.w.data()} : packed.weight;
        Matrix parts(ElementType::f32, kM, kN, 5);
        run(1, path.backend, kN, [&](Exec& exec) {
          matmul_forward(exec, x.view(), weight, f.y.out());
          for (std::int64_t first = 0; first < kN; first += 2 * kWeightRowUnit) {
            const std::int64_t cols = std::min(2 * kWeightRowUnit, kN - first);
            MutableMatrix out = parts.out();
            out.data = parts.f32.data() + first;
            out.cols = cols;
            matmul_forward(exec, x.view(), weight_rows(path.backend, weight, first, cols), out);
          }
        });
        for (std::int64_t i = 0; i < kM; ++i) {
          for (std::int64_t j = 0; j < kN; ++j) ASSERT_EQ(parts.get(i, j), f.y.get(i, j)) << i << ", " << j;
        }
        parts.expect_padding_untouched();
      }
    }
  }
}

TEST(MatmulRows, NanStaysInItsRow) {
  for (const Path& path : paths()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      SCOPED_TRACE(path.name());
      Fused f(compute, ElementType::bf16, 20, 40, 50);
      f.x.set(7, 11, NAN);
      const PackedWeight packed = pack(path.backend, compute, f.w);
      run(1, path.backend, 50, [&](Exec& exec) { matmul_forward(exec, f.x.view(), packed.weight, f.y.out()); });
      for (std::int64_t i = 0; i < 20; ++i) {
        for (std::int64_t j = 0; j < 40; ++j) ASSERT_EQ(std::isnan(f.y.get(i, j)), i == 7) << i << ", " << j;
      }
    }
  }
}

}  // namespace
}  // namespace quern
