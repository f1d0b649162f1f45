// Dropout and embedding: exactly the elements that the scalar reference of Philox keeps, on every instruction set.
#include "elementwise_support.hpp"
#include "math/philox.hpp"

namespace quern::test {
namespace {

constexpr DropoutMask kMask = {
    .probability = 0.2F, .seed = 0x123456789ABCDEF0ULL, .step = 7, .site = 9, .first_row = 4000000000U};
constexpr DropoutMask kNone = {.probability = 0.0F, .seed = 1, .step = 2, .site = 3, .first_row = 4};

double factor_of(const DropoutMask& mask, std::int64_t row, std::int64_t col) {
  const bool kept = dropout_keeps(mask, static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(col));
  return kept ? value_of(dropout_scale(mask)) : 0.0;
}

TEST(Dropout, AddKeepsWhatTheReferenceKeeps) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const DropoutMask& mask : {kMask, kNone}) {
      for (const std::int64_t cols : kSizes) {
        const Rows<float> x = Rows<float>(3, cols).fill(Normal(51));
        const Rows<float> residual = Rows<float>(3, cols, 2, 0).fill(Normal(52));
        Rows<float> out(3, cols, 5, 2), alone(3, cols, 1, 3);
        table->dropout_add(x.data(), x.stride(), residual.data(), residual.stride(), out.data(), out.stride(), 3, cols,
                           mask);
        table->dropout_add(x.data(), x.stride(), nullptr, 0, alone.data(), alone.stride(), 3, cols, mask);
        for (std::int64_t r = 0; r < 3; ++r) {
          for (std::int64_t c = 0; c < cols; ++c) {
            const double branch = x.value(r, c) * factor_of(mask, r, c);
            ASSERT_NEAR(alone.value(r, c), branch, 0x1p-23 * std::abs(branch)) << "cols " << cols << " c " << c;
            const double want = branch + residual.value(r, c);
            ASSERT_NEAR(out.value(r, c), want, 0x1p-22 * (std::abs(branch) + std::abs(want)));
          }
        }
        // In place over x, and over the residual: the same bits.
        Rows<float> over_x = x, over_residual = residual;
        table->dropout_add(over_x.data(), over_x.stride(), residual.data(), residual.stride(), over_x.data(),
                           over_x.stride(), 3, cols, mask);
        table->dropout_add(x.data(), x.stride(), over_residual.data(), over_residual.stride(), over_residual.data(),
                           over_residual.stride(), 3, cols, mask);
        for (std::int64_t r = 0; r < 3; ++r) {
          EXPECT_TRUE(over_x.same_bits(r, out, r));
          EXPECT_TRUE(over_residual.same_bits(r, out, r));
        }
        EXPECT_TRUE(out.gaps_untouched() && alone.gaps_untouched());
      }
    }
  }
}

template <class T>
void check_backward(const ElementwiseKernels& table, std::int64_t cols, const DropoutMask& mask) {
  const Rows<float> dout = Rows<float>(3, cols).fill(Normal(53));
  Rows<T> dy(3, cols, 5, 2);
  kernels_for<T>(table).dropout_backward(dout.data(), dout.stride(), dy.data(), dy.stride(), 3, cols, mask);
  for (std::int64_t r = 0; r < 3; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const double want = dout.value(r, c) * factor_of(mask, r, c);
      ASSERT_NEAR(dy.value(r, c), want, (0x1p-23 + kStorageError<T>)*std::abs(want)) << "cols " << cols << " c " << c;
    }
  }
  // Row 1 alone, found by first_row.
  DropoutMask later = mask;
  later.first_row += 1;
  Rows<T> alone(1, cols, 0, 0);
  kernels_for<T>(table).dropout_backward(&dout.at(1, 0), dout.stride(), alone.data(), alone.stride(), 1, cols, later);
  EXPECT_TRUE(alone.same_bits(0, dy, 1));
  EXPECT_TRUE(dy.gaps_untouched());
}

TEST(Dropout, Backward) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const DropoutMask& mask : {kMask, kNone}) {
      for (const std::int64_t cols : kSizes) {
        check_backward<float>(*table, cols, mask);
        check_backward<bf16>(*table, cols, mask);
      }
    }
  }
}

TEST(Dropout, KeepsTheRightShare) {
  constexpr std::int64_t kRows = 200, kCols = 1000;
  const std::vector<float> ones(kRows * kCols, 1.0F);
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (const float probability : {0.1F, 0.5F, 0.9F}) {
      DropoutMask mask = kMask;
      mask.probability = probability;
      std::vector<float> out(ones.size());
      table->dropout_add(ones.data(), kCols, nullptr, 0, out.data(), kCols, kRows, kCols, mask);
      double kept = 0.0, sum = 0.0;
      for (const float v : out) kept += v != 0.0F ? 1.0 : 0.0, sum += value_of(v);
      const double n = static_cast<double>(out.size()), p = value_of(probability);
      // Five standard deviations of a binomial count.
      EXPECT_NEAR(kept / n, 1.0 - p, 5.0 * std::sqrt(p * (1.0 - p) / n)) << table->name;
      EXPECT_NEAR(sum / n, 1.0, 5.0 * std::sqrt(p / (1.0 - p) / n)) << table->name;
    }
  }
}

TEST(Dropout, ProbabilityOneDropsEverything) {
  DropoutMask mask = kMask;
  mask.probability = 1.0F;
  for (const ElementwiseKernels* table : elementwise_tables()) {
    std::vector<float> x(300, 2.0F);
    table->dropout_add(x.data(), 300, nullptr, 0, x.data(), 300, 1, 300, mask);
    EXPECT_EQ(x, std::vector<float>(300, 0.0F)) << table->name;
  }
}

TEST(Embedding, SumsScalesAndDrops) {
  constexpr std::int64_t kRows = 4;
  const std::int32_t tokens[kRows] = {2, 0, 5, 2};
  const std::int32_t positions[kRows] = {1, 2, 0, 1};
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const DropoutMask& mask : {kMask, kNone}) {
      for (const std::int64_t cols : kSizes) {
        const Rows<float> token_table = Rows<float>(6, cols, 0, 0).fill(Normal(54));
        const Rows<float> position_table = Rows<float>(3, cols, 0, 1).fill(Normal(55));
        for (const bool with_positions : {false, true}) {
          Rows<float> x(kRows, cols, 3, 2);
          table->embedding_forward(token_table.data(), tokens, with_positions ? position_table.data() : nullptr,
                                   with_positions ? positions : nullptr, 1.5F, x.data(), x.stride(), kRows, cols, mask);
          for (std::int64_t r = 0; r < kRows; ++r) {
            for (std::int64_t c = 0; c < cols; ++c) {
              const double token = 1.5 * token_table.value(tokens[r], c);
              const double position = with_positions ? position_table.value(positions[r], c) : 0.0;
              const double factor = factor_of(mask, r, c);
              const double error = 0x1p-22 * factor * (std::abs(token) + std::abs(position));
              ASSERT_NEAR(x.value(r, c), (token + position) * factor, error) << "cols " << cols << " c " << c;
            }
          }
          EXPECT_TRUE(x.gaps_untouched());
        }
      }
    }
  }
}

}  // namespace
}  // namespace quern::test
