// RoPE and the conversions between f32 and T.
#include <bit>
#include <limits>

#include "elementwise_support.hpp"

namespace quern::test {
namespace {

constexpr std::int64_t kRows = 3;
constexpr std::int64_t kPositions = 9;
constexpr std::int32_t kPosition[kRows] = {4, 0, 8};

/// cos_sin as the kernels read it: for each position, `pairs` cosines, then as many sines.
std::vector<float> angle_table(std::int64_t rotated) {
  std::vector<float> table(static_cast<std::size_t>(kPositions * rotated));
  const std::int64_t pairs = rotated / 2;
  for (std::int64_t p = 0; p < kPositions; ++p) {
    for (std::int64_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(p) * std::pow(100.0, -static_cast<double>(i) / static_cast<double>(pairs));
      table[static_cast<std::size_t>(p * rotated + i)] = static_cast<float>(std::cos(angle));
      table[static_cast<std::size_t>(p * rotated + pairs + i)] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

template <class T>
void check_rope(const ElementwiseKernels& table, std::int64_t rotated, RopePairing pairing, bool inverse) {
  constexpr std::int64_t kHeads = 2;
  const std::int64_t head = rotated + 3;  // three elements of each head are not rotated
  const std::int64_t pairs = rotated / 2;
  const std::vector<float> angles = angle_table(rotated);
  const Rows<T> before = Rows<T>(kRows, kHeads * head).fill(Normal(31));
  Rows<T> x = before;
  kernels_for<T>(table).rope(x.data(), x.stride(), head, kRows, kHeads, rotated, pairing, angles.data(), kPosition, inverse);
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t h = 0; h < kHeads; ++h) {
      for (std::int64_t i = 0; i < pairs; ++i) {
        const std::int64_t first = h * head + (pairing == RopePairing::adjacent ? 2 * i : i);
        const std::int64_t second = pairing == RopePairing::adjacent ? first + 1 : first + pairs;
        const auto at = static_cast<std::size_t>(kPosition[r] * rotated + i);
        const double c = value_of(angles[at]);
        const double s = value_of(angles[at + static_cast<std::size_t>(pairs)]) * (inverse ? -1.0 : 1.0);
        const double a = before.value(r, first), b = before.value(r, second);
        const double want_a = a * c - b * s, want_b = a * s + b * c;
        const double arithmetic = 0x1p-22 * (std::abs(a) + std::abs(b));
        ASSERT_NEAR(x.value(r, first), want_a, arithmetic + kStorageError<T> * std::abs(want_a)) << "pair " << i;
        ASSERT_NEAR(x.value(r, second), want_b, arithmetic + kStorageError<T> * std::abs(want_b)) << "pair " << i;
      }
      for (std::int64_t c = h * head + rotated; c < (h + 1) * head; ++c) EXPECT_EQ(x.value(r, c), before.value(r, c));
    }
  }
  EXPECT_TRUE(x.gaps_untouched());
  // Rotating back restores what was there, up to rounding.
  kernels_for<T>(table).rope(x.data(), x.stride(), head, kRows, kHeads, rotated, pairing, angles.data(), kPosition,
                             !inverse);
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t c = 0; c < kHeads * head; ++c) EXPECT_NEAR(x.value(r, c), before.value(r, c), 20.0 * kStorageError<T>);
  }
}

TEST(Rope, BothPairingsAndDirections) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t pairs : {1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64}) {
      for (const RopePairing pairing : {RopePairing::adjacent, RopePairing::halves}) {
        for (const bool inverse : {false, true}) {
          check_rope<float>(*table, 2 * pairs, pairing, inverse);
          check_rope<bf16>(*table, 2 * pairs, pairing, inverse);
        }
      }
    }
  }
}

// The inverse is the transpose, so it is the backward pass: <R x, y> = <x, R^-1 y>.
TEST(Rope, InverseIsTheBackwardPass) {
  constexpr std::int64_t kRotated = 34;
  const std::vector<float> angles = angle_table(kRotated);
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (const RopePairing pairing : {RopePairing::adjacent, RopePairing::halves}) {
      const Rows<float> x = Rows<float>(kRows, kRotated).fill(Normal(32));
      const Rows<float> y = Rows<float>(kRows, kRotated).fill(Normal(33));
      Rows<float> rx = x, ry = y;
      table->f32.rope(rx.data(), rx.stride(), kRotated, kRows, 1, kRotated, pairing, angles.data(), kPosition, false);
      table->f32.rope(ry.data(), ry.stride(), kRotated, kRows, 1, kRotated, pairing, angles.data(), kPosition, true);
      double left = 0.0, right = 0.0;
      for (std::int64_t r = 0; r < kRows; ++r) {
        for (std::int64_t c = 0; c < kRotated; ++c)
          left += rx.value(r, c) * y.value(r, c), right += x.value(r, c) * ry.value(r, c);
      }
      EXPECT_NEAR(left, right, 1e-5) << table->name;
    }
  }
}

TEST(Conversions, RoundToNearestEvenAndBack) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t cols : kSizes) {
      const Rows<float> x = Rows<float>(2, cols).fill(Normal(34, 100.0));
      Rows<bf16> half(2, cols, 5, 3);
      Rows<float> back(2, cols, 1, 0), copy(2, cols, 2, 2);
      table->b16.from_f32(x.data(), x.stride(), half.data(), half.stride(), 2, cols);
      table->b16.to_f32(half.data(), half.stride(), back.data(), back.stride(), 2, cols);
      table->f32.from_f32(x.data(), x.stride(), copy.data(), copy.stride(), 2, cols);
      table->f32.to_f32(copy.data(), copy.stride(), copy.data(), copy.stride(), 2, cols);
      for (std::int64_t r = 0; r < 2; ++r) {
        EXPECT_TRUE(copy.same_bits(r, x, r));
        for (std::int64_t c = 0; c < cols; ++c) {
          ASSERT_EQ(half.at(r, c).bits, bf16_from_float(x.at(r, c)).bits);
          ASSERT_EQ(back.at(r, c), float_from_bf16(half.at(r, c)));
        }
      }
      EXPECT_TRUE(half.gaps_untouched() && back.gaps_untouched() && copy.gaps_untouched());
    }
  }
}

template <class T>
void check_scaled_rows(const ElementwiseKernels& table, std::int64_t cols) {
  const Rows<T> x = Rows<T>(3, cols).fill(Normal(35, 10.0));
  const float factor[] = {0.75F, -3.0e-5F, 0.0F};
  Rows<T> y(3, cols, 2, 1);
  kernels_for<T>(table).scale_rows(x.data(), x.stride(), factor, y.data(), y.stride(), 3, cols);
  for (std::int64_t r = 0; r < 3; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const double want = x.value(r, c) * value_of(factor[r]);
      ASSERT_NEAR(y.value(r, c), want, kStorageError<T> * std::abs(want));
    }
  }
  EXPECT_TRUE(y.gaps_untouched());
  Rows<T> in_place = x;
  kernels_for<T>(table).scale_rows(in_place.data(), in_place.stride(), factor, in_place.data(), in_place.stride(), 3, cols);
  for (std::int64_t r = 0; r < 3; ++r) EXPECT_TRUE(in_place.same_bits(r, y, r));
}

TEST(Conversions, RowsTimesAFactor) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t cols : kSizes) {
      check_scaled_rows<float>(*table, cols);
      check_scaled_rows<bf16>(*table, cols);
    }
  }
}

TEST(Conversions, SpecialValues) {
  using Limits = std::numeric_limits<float>;
  const std::vector<float> x = {0.0F,
                                -0.0F,
                                Limits::infinity(),
                                -Limits::infinity(),
                                Limits::quiet_NaN(),
                                Limits::max(),
                                Limits::min(),
                                Limits::denorm_min(),
                                1.00390625F,
                                1.01171875F,
                                std::bit_cast<float>(0x7F800001U),
                                std::bit_cast<float>(0xFFFFFFFFU)};
  const std::vector<std::uint16_t> want = {0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0x7F80,
                                           0x0080, 0x0000, 0x3F80, 0x3F82, 0x7FC0, 0xFFFF};
  const auto n = static_cast<std::int64_t>(x.size());
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (std::int64_t repeat = 1; repeat <= 2; ++repeat) {  // a tail, and whole vectors
      std::vector<float> in;
      for (std::int64_t k = 0; k < repeat * repeat; ++k) in.insert(in.end(), x.begin(), x.end());
      std::vector<bf16> out(in.size());
      const auto count = static_cast<std::int64_t>(in.size());
      table->b16.from_f32(in.data(), count, out.data(), count, 1, count);
      for (std::int64_t i = 0; i < count; ++i) {
        EXPECT_EQ(out[static_cast<std::size_t>(i)].bits, want[static_cast<std::size_t>(i % n)]) << table->name << " " << i;
      }
    }
  }
}

}  // namespace
}  // namespace quern::test
