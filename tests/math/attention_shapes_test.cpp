// Attention of the models that the runner knows, against the double-precision reference: groups of 8, 7 and 1 query heads,
// their head sizes and awkward ones, windows, sinks and soft caps, in chunks at odd positions over pages.
//
// Error model: as in attention_test.cpp, per element of an output below the largest value.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "support/attention_harness.hpp"

namespace quern {
namespace {

using testing_attention::attention_tables;
using testing_attention::kTypeOf;
using testing_attention::Output;
using testing_attention::Pages;
using testing_attention::Problem;
using testing_attention::run_chunks;
using testing_attention::run_rows;
using testing_attention::run_whole;
using testing_attention::shape_of;
using testing_attention::value_of;

template <class T>
class AttentionShapes : public testing::Test {};
using Types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(AttentionShapes, Types);

/// Largest row error over largest row norm; rows of `width`.
template <class T>
double row_error(const std::vector<T>& actual, const std::vector<double>& expected, std::int64_t width) {
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t r = 0; r < expected.size(); r += static_cast<std::size_t>(width)) {
    double e = 0.0;
    double n = 0.0;
    for (std::size_t c = r; c < r + static_cast<std::size_t>(width); ++c) {
      e += std::pow(value_of(actual[c]) - expected[c], 2);
      n += expected[c] * expected[c];
    }
    if (std::isnan(e)) return e;
    error = std::max(error, std::sqrt(e));
    norm = std::max(norm, std::sqrt(n));
  }
  return error / norm;
}

template <class T>
void expect_matches_reference(const AttentionShape& shape, std::int64_t length, std::int64_t chunk,
                              const std::string& what) {
  const Problem<T> s(shape, length, 17);
  const ReferenceAttentionOutput expected = s.reference(0, length);
  const double units = static_cast<double>(shape.head_dim + length + 64);
  const double tolerance = kTypeOf<T> == ElementType::f32 ? units * 0x1p-24 : 0x1p-7;
  for (const KernelTable& table : attention_tables()) {
    SCOPED_TRACE(what + ", " + table.attention->name);
    const Output<T> whole = run_whole(table, s);
    EXPECT_LE(row_error(whole.out, expected.out, shape.head_dim), tolerance);
    for (std::size_t i = 0; i < expected.lse.size(); ++i) {
      ASSERT_NEAR(double{whole.lse[i]}, expected.lse[i], units * 0x1p-22) << "lse " << i;
    }
    EXPECT_TRUE(whole == run_chunks(table, s, kTypeOf<T>, chunk, 64, chunk / 2)) << "chunks of " << chunk;
    const Pages<T> pages(s, kTypeOf<T>, 64);
    for (const std::int64_t row : {std::int64_t{63}, std::int64_t{64}, length - 1}) {
      const Output<T> one = run_rows(table, s, pages, row, 1);
      EXPECT_EQ(0, std::memcmp(one.out.data(), whole.out.data() + row * s.q_width(),
                               static_cast<std::size_t>(s.q_width()) * sizeof(T)))
          << "row " << row;
    }
  }
}

TYPED_TEST(AttentionShapes, HeadSizes) {
  for (const std::int64_t head_dim : {40, 64, 80, 96, 128, 256}) {
    expect_matches_reference<TypeParam>(shape_of(2, 1, head_dim), 70, 32, "head_dim " + std::to_string(head_dim));
  }
}

TYPED_TEST(AttentionShapes, GroupSizes) {
  const std::int64_t layouts[][2] = {{8, 1}, {7, 1}, {14, 2}, {2, 2}, {71, 1}};
  for (const auto& [heads, kv_heads] : layouts) {
    expect_matches_reference<TypeParam>(shape_of(heads, kv_heads, 16), 66, 65,
                                        std::to_string(heads) + "/" + std::to_string(kv_heads));
  }
}

// gpt-oss: sinks in every layer, a window of 128 in every second; Gemma 2: soft caps and a window; windows of no multiple of
// anything.
TYPED_TEST(AttentionShapes, WindowsSinksAndSoftCaps) {
  std::vector<float> sinks;
  for (int i = 0; i < 8; ++i) sinks.push_back(static_cast<float>(i % 5) - 2.0F);
  for (const std::int64_t window : {0, 1, 33, 64, 100}) {
    AttentionShape shape = shape_of(8, 1, 32);
    shape.window = window;
    shape.sinks = sinks.data();
    shape.soft_cap = window % 2 == 1 ? 2.0F : 0.0F;
    expect_matches_reference<TypeParam>(shape, 130, 23, "window " + std::to_string(window));
  }
}

}  // namespace
}  // namespace quern
