// Products with plain weights of every format, in both precisions, on every instruction set and Eigen.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "math/block_formats.hpp"
#include "support/block_dot_support.hpp"

namespace quern {
namespace {

using namespace test;

/// As run() of matmul_reference.hpp, with exactly the scratch for these dimensions.
template <class Body>
void run_tight(int threads, const Backend& backend, std::int64_t max_rows, std::int64_t max_cols, const Body& body) {
  ThreadTeam team(threads);
  std::vector<AlignedBuffer> scratch;
  const std::size_t bytes = matmul_scratch_bytes(backend, max_rows, max_cols);
  for (int i = 0; i < threads; ++i) scratch.push_back(buffer(bytes));
  team.run([&](TeamMember& member) {
    AlignedBuffer& mine = scratch[static_cast<std::size_t>(member.index())];
    std::memset(mine.data(), 0x7f, bytes);
    Exec exec{.member = member, .backend = backend, .scratch = {mine.data(), bytes}};
    body(exec);
  });
}

/// Every format that weights come in.
std::vector<ElementType> weight_types() {
  std::vector<ElementType> types;
  for (const BlockFormat& format : block_formats()) {
    const ElementType t = format.type;
    if (format.quantized || t == ElementType::f32 || t == ElementType::f16 || t == ElementType::bf16) types.push_back(t);
  }
  return types;
}

std::string describe(const Path& path, ElementType type, std::int64_t m, std::int64_t n, std::int64_t k) {
  return path.name() + " " + std::string(block_format(type).name) + " M " + std::to_string(m) + " N " + std::to_string(n) +
         " K " + std::to_string(k);
}

Matrix product(const Path& path, const Matrix& x, const FileWeight& w, WeightPrecision precision, int threads = 1,
               std::int64_t pad = 3) {
  Matrix y(ElementType::f32, x.rows, w.rows, pad);
  run_tight(threads, path.backend, x.rows, std::max(w.rows, w.cols),
            [&](Exec& exec) { matmul_forward(exec, x.view(), w.view(precision), y.out()); });
  y.expect_padding_untouched();
  return y;
}

/// Rows [first, first + part.rows) of `whole` are those of `part`.
void expect_same_bits(const Matrix& whole, const Matrix& part, std::int64_t first = 0) {
  for (std::int64_t i = 0; i < part.rows; ++i) {
    for (std::int64_t j = 0; j < part.cols; ++j) {
      ASSERT_EQ(whole.get(first + i, j), part.get(i, j)) << "row " << first + i << " column " << j;
    }
  }
}

/// What a number becomes before a product of many rows in fast precision.
double rounded(float v, bool to_bf16) { return to_bf16 ? float_from_bf16(bf16_from_float(v)) : v; }

void expect_matches_double(const Matrix& x, const FileWeight& w, const Matrix& y, bool to_bf16) {
  for (std::int64_t i = 0; i < x.rows; ++i) {
    for (std::int64_t j = 0; j < w.rows; ++j) {
      double sum = 0.0;
      double magnitude = 0.0;
      for (std::int64_t c = 0; c < w.cols; ++c) {
        const double p = rounded(x.get(i, c), to_bf16) * rounded(w.at(j, c), to_bf16);
        sum += p;
        magnitude += std::abs(p);
      }
      ASSERT_NEAR(y.get(i, j), sum, tolerance(w.cols, magnitude, ElementType::f32, sum)) << i << ", " << j;
    }
  }
}

TEST(MatmulPlain, F32PrecisionHasTheBitsOfTheDecodedWeightPacked) {
  for (const Path& path : paths(false)) {
    for (const ElementType type : weight_types()) {
      for (const std::int64_t k : {256, 768}) {
        constexpr std::int64_t kN = 37;
        std::mt19937 random(static_cast<std::uint32_t>(k) + static_cast<std::uint32_t>(type));
        const FileWeight w(type, kN, k, random);
        Matrix decoded(ElementType::f32, kN, k, 0);
        for (std::int64_t r = 0; r < kN; ++r) {
          decode_row(path.backend, w.view(WeightPrecision::f32), r, decoded.f32.data() + r * k);
          for (std::int64_t c = 0; c < k; ++c) ASSERT_EQ(decoded.get(r, c), w.at(r, c));
        }
        const PackedWeight packed = pack(path.backend, ComputeType::f32, decoded);
        for (const std::int64_t m : {1, 7}) {
          SCOPED_TRACE(describe(path, type, m, kN, k));
          Matrix x(ElementType::f32, m, k, 5);
          x.fill(random);
          const Matrix y = product(path, x, w, WeightPrecision::f32);
          Matrix expected(ElementType::f32, m, kN, 0);
          run(1, path.backend, std::max(k, kN),
              [&](Exec& exec) { matmul_forward(exec, x.view(), packed.weight, expected.out()); });
          expect_same_bits(y, expected);
        }
      }
    }
  }
}

TEST(MatmulPlain, FloatsOfOddLength) {
  for (const Path& path : paths()) {
    for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16}) {
      for (const WeightPrecision precision : {WeightPrecision::f32, WeightPrecision::fast}) {
        for (const std::int64_t k : {1, 389}) {
          for (const std::int64_t m : {1, 6, 32, 33}) {
            constexpr std::int64_t kN = 39;
            SCOPED_TRACE(describe(path, type, m, kN, k));
            std::mt19937 random(static_cast<std::uint32_t>(k + m));
            const FileWeight w(type, kN, k, random);
            Matrix x(ElementType::f32, m, k, 1);
            x.fill(random);
            const bool to_bf16 = precision == WeightPrecision::fast && m > kFastRows && type != ElementType::f32 &&
                                 !path.backend.eigen && path.backend.kernels->matmul->b16.operand == ElementType::bf16;
            expect_matches_double(x, w, product(path, x, w, precision), to_bf16);
          }
        }
      }
    }
  }
}

/// Whether fast products of m rows multiply blocks with int8 activations where the format has such products.
bool quantizes_activations(const Path& path, std::int64_t m) {
  if (path.backend.eigen) return false;
  const Isa isa = path.backend.kernels->isa;
  return m <= kFastRows || (isa != Isa::amx && isa != Isa::portable);
}

/// Fast precision, blocks: against double on the activations as they are quantized, and on those given.
TEST(MatmulPlain, FastRowsMatchQuantizedActivations) {
  for (const Path& path : paths(false)) {
    for (const ElementType type : kDotTypes) {
      const bool small = block_format(type).block_elements == 32;
      for (const std::int64_t k : {small ? 33 * 32 : 512, small ? 2880 : 2816}) {
        for (const std::int64_t m : {1, 2, 7, 32, 70}) {
          if (!quantizes_activations(path, m)) continue;
          const std::int64_t kN = m == 7 ? 75 : 5;
          SCOPED_TRACE(describe(path, type, m, kN, k));
          std::mt19937 random(static_cast<std::uint32_t>(k + m));
          const FileWeight w(type, kN, k, random);
          Matrix x(ElementType::f32, m, k, 3);
          x.fill(random);
          const Matrix y = product(path, x, w, WeightPrecision::fast);
          AlignedBuffer values = buffer(static_cast<std::size_t>(k));
          AlignedBuffer scales = buffer(static_cast<std::size_t>(k / 32 * 4));
          AlignedBuffer sums = buffer(static_cast<std::size_t>(k / 16 * 2));
          const ActivationRow row{values.as<std::int8_t>(), scales.as<float>(), sums.as<std::int16_t>()};
          for (std::int64_t i = 0; i < m; i += m >= 32 ? 13 : 1) {
            path.backend.kernels->blocks->quantize_activations(x.f32.data() + i * x.stride, k, row);
            for (std::int64_t j = 0; j < kN; ++j) {
              const Expected expected = expected_dot(w, j, row);
              ASSERT_NEAR(y.get(i, j), expected.value, expected.tolerance) << i << ", " << j;
              // An activation moves by half its block's scale at most.
              double exact = 0.0;
              double moved = 0.0;
              for (std::int64_t c = 0; c < k; ++c) {
                exact += double{x.get(i, c)} * w.at(j, c);
                moved += 0.5001 * row.scales[c / 32] * std::abs(w.at(j, c));
              }
              ASSERT_NEAR(y.get(i, j), exact, moved + expected.tolerance) << i << ", " << j;
            }
          }
        }
      }
    }
  }
}

TEST(MatmulPlain, ManyFastRowsAndFormatsWithoutDotProductsMatchDouble) {
  for (const Path& path : paths()) {
    for (const ElementType type : weight_types()) {
      const bool has_dot = std::find(std::begin(kDotTypes), std::end(kDotTypes), type) != std::end(kDotTypes);
      for (const std::int64_t m : {5, 33, 100}) {
        if (has_dot && quantizes_activations(path, m)) continue;
        if (m == 100 && type != ElementType::q4_k && type != ElementType::q8_0) continue;
        constexpr std::int64_t kK = 512;
        const std::int64_t n = m == 100 ? 34 : 5;
        SCOPED_TRACE(describe(path, type, m, n, kK));
        std::mt19937 random(static_cast<std::uint32_t>(m));
        const FileWeight w(type, n, kK, random);
        Matrix x(ElementType::f32, m, kK, 0);
        x.fill(random);
        const bool to_bf16 = m > kFastRows && type != ElementType::f32 && !path.backend.eigen &&
                             path.backend.kernels->matmul->b16.operand == ElementType::bf16;
        expect_matches_double(x, w, product(path, x, w, WeightPrecision::fast), to_bf16);
      }
    }
  }
}

TEST(MatmulPlain, ARowAloneHasTheBitsOfTheBatch) {
  for (const Path& path : paths(false)) {
    for (const ElementType type : {ElementType::q4_0, ElementType::q5_1, ElementType::q4_k, ElementType::q6_k,
                                   ElementType::mxfp4, ElementType::iq2_s, ElementType::f16, ElementType::f32}) {
      for (const WeightPrecision precision : {WeightPrecision::fast, WeightPrecision::f32}) {
        constexpr std::int64_t kN = 35, kK = 512;
        std::mt19937 random(5);
        const FileWeight w(type, kN, kK, random);
        const std::int64_t most = precision == WeightPrecision::fast ? kFastRows : 100;
        Matrix x(ElementType::f32, most, kK, 0);
        x.fill(random);
        std::vector<Matrix> alone;
        for (std::int64_t i = 0; i < most; ++i) {
          Matrix one(ElementType::f32, 1, kK, 0);
          std::copy_n(x.f32.data() + i * kK, kK, one.f32.data());
          alone.push_back(product(path, one, w, precision));
        }
        for (const std::int64_t m : {2, 3, 7, 32, 33, 100}) {
          if (m > most) break;
          SCOPED_TRACE(describe(path, type, m, kN, kK));
          Matrix some(ElementType::f32, m, kK, 0);
          std::copy_n(x.f32.data(), m * kK, some.f32.data());
          const Matrix y = product(path, some, w, precision);
          for (std::int64_t i = 0; i < m; ++i) expect_same_bits(y, alone[static_cast<std::size_t>(i)], i);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Products computed together, some of the same rows, some of others, some that have no dot products.
TEST(MatmulPlain, PartsHaveTheBitsOfProductsAlone) {
  for (const Path& path : paths()) {
    for (const std::int64_t m : {1, 3, 20}) {
      std::mt19937 random(static_cast<std::uint32_t>(m));
      Matrix x(ElementType::f32, m, 512, 5);
      x.fill(random);
      Matrix other(ElementType::f32, 2, 256, 0);
      other.fill(random);
      const FileWeight a(ElementType::q4_k, 70, 512, random);
      const FileWeight b(ElementType::q8_0, 33, 512, random);
      const FileWeight c(ElementType::iq3_s, 40, 512, random);
      const FileWeight d(ElementType::bf16, 50, 512, random);
      const FileWeight e(ElementType::mxfp4, 17, 256, random);
      const std::vector<float> bias = random_floats(70, random);
      const FileWeight* weights[] = {&a, &b, &c, &d, &e, &a};
      const Matrix* inputs[] = {&x, &x, &x, &x, &other, &x};
      std::vector<Matrix> together;
      for (int i = 0; i < 6; ++i) together.emplace_back(ElementType::f32, inputs[i]->rows, weights[i]->rows, 3);
      run_tight(2, path.backend, m, 512, [&](Exec& exec) {
        std::vector<ForwardPart> parts;
        for (std::size_t i = 0; i < 6; ++i) {
          parts.push_back({.x = inputs[i]->view(),
                           .weight = weights[i]->view(WeightPrecision::fast),
                           .y = together[i].out(),
                           .epilogue = {.bias = i == 0 ? bias.data() : nullptr}});
        }
        matmul_forward_parts(exec, parts);
      });
      for (std::size_t i = 0; i < 6; ++i) {
        SCOPED_TRACE(describe(path, weights[i]->type, inputs[i]->rows, weights[i]->rows, weights[i]->cols));
        Matrix alone(ElementType::f32, inputs[i]->rows, weights[i]->rows, 3);
        run_tight(1, path.backend, m, 512, [&](Exec& exec) {
          matmul_forward(exec, inputs[i]->view(), weights[i]->view(WeightPrecision::fast), alone.out(),
                         {.bias = i == 0 ? bias.data() : nullptr});
        });
        together[i].expect_padding_untouched();
        expect_same_bits(together[i], alone);
      }
    }
  }
}

TEST(MatmulPlain, ThreadsDoNotChangeBits) {
  for (const Path& path : paths(false)) {
    for (const ElementType type : {ElementType::q5_0, ElementType::q5_k, ElementType::bf16, ElementType::iq3_xxs}) {
      for (const std::int64_t m : {3, 50}) {
        constexpr std::int64_t kN = 300, kK = 256;
        SCOPED_TRACE(describe(path, type, m, kN, kK));
        std::mt19937 random(9);
        const FileWeight w(type, kN, kK, random);
        Matrix x(ElementType::f32, m, kK, 0);
        x.fill(random);
        for (const WeightPrecision precision : {WeightPrecision::fast, WeightPrecision::f32}) {
          const Matrix one = product(path, x, w, precision);
          for (const int threads : {2, 3}) expect_same_bits(one, product(path, x, w, precision, threads));
        }
      }
    }
  }
}

/// Rows for products with blocks as they are, and for panels that are decoded first.
TEST(MatmulPlain, BlockSizesDoNotChangeBits) {
  for (const Path& path : paths(false)) {
    for (const ElementType type : {ElementType::q4_0, ElementType::q6_k, ElementType::f16}) {
      for (const std::int64_t m : {5, 70}) {
        constexpr std::int64_t kN = 208, kK = 1280;
        SCOPED_TRACE(describe(path, type, m, kN, kK));
        std::mt19937 random(9);
        const FileWeight w(type, kN, kK, random);
        Matrix x(ElementType::f32, m, kK, 0);
        x.fill(random);
        const Matrix whole = product(path, x, w, WeightPrecision::fast, 2);
        for (const BlockSizes blocks :
             {BlockSizes{.task_bytes = 4096, .block_rows = 16}, BlockSizes{.task_bytes = 1 << 20, .block_rows = 33},
              BlockSizes{.task_bytes = 100000, .block_rows = 2048}}) {
          Path other = path;
          other.backend.blocks = blocks;
          expect_same_bits(whole, product(other, x, w, WeightPrecision::fast, 2));
        }
      }
    }
  }
}

/// More columns than a thread keeps quantized rows for at once.
TEST(MatmulPlain, VeryLongRows) {
  const Path path = paths(false).front();
  constexpr std::int64_t kK = 65536 + 256, kM = 32;
  std::mt19937 random(13);
  const FileWeight w(ElementType::q4_k, 2, kK, random);
  Matrix x(ElementType::f32, kM, kK, 0);
  for (std::int64_t i = 0; i < kM * kK; ++i) x.f32[static_cast<std::size_t>(i)] = static_cast<float>(i % 251) - 125.0F;
  const Matrix y = product(path, x, w, WeightPrecision::fast);
  for (const std::int64_t i : {0, 24, 25, 31}) {
    Matrix one(ElementType::f32, 1, kK, 0);
    std::copy_n(x.f32.data() + i * kK, kK, one.f32.data());
    expect_same_bits(y, product(path, one, w, WeightPrecision::fast), i);
  }
}

/// bias, activation, copy of the pre-activation and residual, against the same product without them.
TEST(MatmulPlain, EpilogueMatchesItsSeparateSteps) {
  for (const Path& path : paths()) {
    for (const ElementType type : {ElementType::q4_k, ElementType::f16}) {
      for (const ElementType out : {ElementType::f32, ElementType::bf16}) {
        for (const std::int64_t m : {1, 40}) {
          constexpr std::int64_t kN = 290, kK = 256;
          SCOPED_TRACE(describe(path, type, m, kN, kK));
          std::mt19937 random(17);
          const FileWeight w(type, kN, kK, random);
          Matrix x(ElementType::f32, m, kK, 0), bias(ElementType::f32, 1, kN, 0), residual(ElementType::f32, m, kN, 2);
          for (Matrix* matrix : {&x, &bias, &residual}) matrix->fill(random);
          // By a team, for Eigen starts threads of its own, and cuts otherwise, outside one.
          const Matrix sums = product(path, x, w, WeightPrecision::fast, 2);
          Matrix y(out, m, kN, 4), pre(out, m, kN, 1);
          run_tight(2, path.backend, m, kK, [&](Exec& exec) {
            matmul_forward(exec, x.view(), w.view(WeightPrecision::fast), y.out(),
                           {.bias = bias.f32.data(),
                            .activation = Activation::silu,
                            .pre_activation = pre.data(),
                            .pre_activation_stride = pre.stride,
                            .residual = residual.f32.data(),
                            .residual_stride = residual.stride});
          });
          const double unit = out == ElementType::bf16 ? 0x1p-8 : 0x1p-22;
          for (std::int64_t i = 0; i < m; ++i) {
            for (std::int64_t j = 0; j < kN; ++j) {
              const double sum = double{sums.get(i, j)} + bias.get(0, j);
              const double expected = sum / (1.0 + std::exp(-sum)) + residual.get(i, j);
              ASSERT_NEAR(pre.get(i, j), sum, unit * std::abs(sum) + 1e-6) << i << ", " << j;
              // SiLU's slope is at most 1.1; its terms are no larger than |sum| and 1.
              ASSERT_NEAR(y.get(i, j), expected, unit * std::abs(expected) + 4e-6 * (std::abs(sum) + 1.0)) << i << ", " << j;
            }
          }
          y.expect_padding_untouched();
          pre.expect_padding_untouched();
        }
      }
    }
  }
}

TEST(MatmulPlain, BackwardInputMatchesDouble) {
  for (const Path& path : paths()) {
    for (const ElementType type : weight_types()) {
      for (const std::int64_t m : {1, 9}) {
        constexpr std::int64_t kN = 37, kK = 512;
        SCOPED_TRACE(describe(path, type, m, kN, kK));
        std::mt19937 random(19);
        const FileWeight w(type, kN, kK, random);
        Matrix dy(ElementType::f32, m, kN, 2), dx(ElementType::f32, m, kK, 1);
        dy.fill(random);
        run_tight(1, path.backend, m, kK,
                  [&](Exec& exec) { matmul_backward_input(exec, dy.view(), w.view(WeightPrecision::f32), dx.out()); });
        for (std::int64_t i = 0; i < m; ++i) {
          for (std::int64_t c = 0; c < kK; ++c) {
            double sum = 0.0;
            double magnitude = 0.0;
            for (std::int64_t j = 0; j < kN; ++j) {
              const double p = double{dy.get(i, j)} * w.at(j, c);
              sum += p;
              magnitude += std::abs(p);
            }
            ASSERT_NEAR(dx.get(i, c), sum, tolerance(kN, magnitude, ElementType::f32, sum)) << i << ", " << c;
          }
        }
        dx.expect_padding_untouched();
      }
    }
  }
}

TEST(MatmulPlain, NothingToComputeIsFine) {
  for (const Path& path : paths()) {
    std::mt19937 random(1);
    const FileWeight w(ElementType::q4_k, 5, 256, random);
    const FileWeight none(ElementType::q4_k, 0, 256, random);
    for (const WeightPrecision precision : {WeightPrecision::fast, WeightPrecision::f32}) {
      product(path, Matrix(ElementType::f32, 0, 256, 0), w, precision);
      product(path, Matrix(ElementType::f32, 3, 256, 0), none, precision);
    }
  }
}

}  // namespace
}  // namespace quern
