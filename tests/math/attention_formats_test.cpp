// Attention over caches of every format: reading is exact, so a cache of any format gives the bits of a cache that holds the
// same numbers in the queries' type.
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
using testing_attention::run;
using testing_attention::run_chunks;
using testing_attention::run_rows;
using testing_attention::run_whole;
using testing_attention::shape_of;
using testing_attention::value_of;

template <class T>
class AttentionFormats : public testing::Test {};
using Types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(AttentionFormats, Types);

TYPED_TEST(AttentionFormats, EqualACacheOfTheSameNumbers) {
  const float sinks[] = {0.5F, 1.0F, -2.0F, 0.0F};
  for (const std::int64_t head_dim : {40, 64}) {
    for (const bool features : {false, true}) {
      AttentionShape shape = shape_of(4, features ? 1 : 4, head_dim);
      if (features) {
        shape.window = 70;
        shape.sinks = sinks;
        shape.soft_cap = 4.0F;
      }
      const Problem<TypeParam> s(shape, 130, 21);
      for (const ElementType type : kv_types()) {
        if (head_dim % kv_block_elements(type) != 0) continue;
        const Problem<TypeParam> stored = s.as_stored(type);
        for (const KernelTable& table : attention_tables()) {
          SCOPED_TRACE(std::string(table.attention->name) + " " + std::string(kv_type_name(type)) + " head_dim " +
                       std::to_string(head_dim) + (features ? ", features" : ""));
          const Output<TypeParam> expected = run_whole(table, stored);
          EXPECT_TRUE(expected == run_chunks(table, s, type, 130, 64)) << "one piece";
          EXPECT_TRUE(expected == run_chunks(table, s, type, 67, 128, 5)) << "chunks";
          // Decoding, one query, from the middle and at the end.
          const Pages<TypeParam> pages(s, type, 64);
          for (const std::int64_t row : {64, 129}) {
            const Output<TypeParam> one = run_rows(table, s, pages, row, 1);
            EXPECT_EQ(0, std::memcmp(one.out.data(), expected.out.data() + row * s.q_width(),
                                     static_cast<std::size_t>(s.q_width()) * sizeof(TypeParam)))
                << "row " << row;
          }
        }
      }
    }
  }
}

// Few rows take a path of their own: all groups of heads around its limits, over several blocks, with and without a window.
TYPED_TEST(AttentionFormats, FewRowsHaveTheBitsOfMany) {
  for (const std::int64_t group : {1, 2, 3, 7, 8, 9}) {
    for (const std::int64_t head_dim : {32, 96, 160}) {
      AttentionShape shape = shape_of(group, 1, head_dim);
      if (group % 2 == 1) shape.window = 100;
      const Problem<TypeParam> s(shape, 300, static_cast<std::uint32_t>(group));
      for (const ElementType type : {ElementType::f16, ElementType::q8_0}) {
        const Pages<TypeParam> pages(s, type, 64);
        for (const KernelTable& table : attention_tables()) {
          SCOPED_TRACE(std::string(table.attention->name) + " " + std::string(kv_type_name(type)) + " group " +
                       std::to_string(group) + " head_dim " + std::to_string(head_dim));
          const Output<TypeParam> many = run_rows(table, s, pages, 200, 100);
          for (const std::int64_t rows : {1, 2, 4}) {
            const Output<TypeParam> few = run_rows(table, s, pages, 255, rows);
            EXPECT_EQ(0, std::memcmp(few.out.data(), many.out.data() + 55 * s.q_width(),
                                     static_cast<std::size_t>(rows * s.q_width()) * sizeof(TypeParam)))
                << rows << " rows";
            for (std::int64_t i = 0; i < rows * shape.heads; ++i) {
              ASSERT_EQ(few.lse[static_cast<std::size_t>(i)], many.lse[static_cast<std::size_t>(55 * shape.heads + i)]);
            }
          }
        }
      }
    }
  }
}

// What a format costs: outputs are means of values and scores weigh them, so with unit normal keys, values and queries the
// mean error stays near the format's own. q8_0: 2^-8 of a block's largest element (below 4); q4_0: 2^-3 of it.
TYPED_TEST(AttentionFormats, StayCloseToExactKeysAndValues) {
  const AttentionShape shape = shape_of(4, 2, 64);
  const Problem<TypeParam> s(shape, 80, 4);
  const ReferenceAttentionOutput exact = s.reference(0, s.length);
  const double own = kTypeOf<TypeParam> == ElementType::f32 ? 1e-5 : 0x1p-8;
  const struct {
    ElementType type;
    double bound;
  } formats[] = {{ElementType::f32, own},
                 {ElementType::bf16, 0x1p-8},
                 {ElementType::f16, own + 0x1p-11},
                 {ElementType::q8_0, own + 0x1p-7},
                 {ElementType::q4_0, 0x1p-2}};
  for (const KernelTable& table : attention_tables()) {
    double previous = -1.0;
    for (const auto& format : formats) {
      const Output<TypeParam> actual = run_chunks(table, s, format.type, 50, 64);
      double squares = 0.0;
      for (std::size_t i = 0; i < exact.out.size(); ++i) squares += std::pow(value_of(actual.out[i]) - exact.out[i], 2);
      const double error = std::sqrt(squares / static_cast<double>(exact.out.size()));
      EXPECT_LE(error, format.bound) << table.attention->name << " " << kv_type_name(format.type);
      if (format.type == ElementType::q4_0) {
        EXPECT_GT(error, previous * 4.0) << "q4_0 looks too good to be true";
      }
      previous = error;
    }
  }
}

// Sequences of different formats in the middle of theirs, in one call.
TYPED_TEST(AttentionFormats, SequencesOfDifferentFormatsShareACall) {
  const AttentionShape shape = shape_of(7, 1, 32);
  const std::int64_t lengths[] = {100, 65, 131, 64, 90};
  const std::int64_t firsts[] = {67, 64, 0, 63, 55};
  std::vector<Problem<TypeParam>> sequences;
  std::vector<Pages<TypeParam>> pages;
  for (std::size_t i = 0; i < 5; ++i) {
    sequences.emplace_back(shape, lengths[i], static_cast<std::uint32_t>(i));
    pages.emplace_back(sequences.back(), kv_types()[i], 64);
  }
  std::vector<TypeParam> q;
  std::vector<AttentionSequence> batch;
  std::int64_t row = 0;
  for (std::size_t i = 0; i < 5; ++i) {
    batch.push_back({row, lengths[i] - firsts[i], firsts[i], pages[i].view});
    q.insert(q.end(), sequences[i].q.begin() + firsts[i] * sequences[i].q_width(), sequences[i].q.end());
    row += batch.back().rows;
  }
  for (const KernelTable& table : attention_tables()) {
    const Output<TypeParam> together = run<TypeParam>(table, shape, batch, q);
    for (std::size_t i = 0; i < 5; ++i) {
      const std::int64_t width = sequences[i].q_width();
      const Output<TypeParam> alone = run_whole(table, sequences[i].as_stored(kv_types()[i]));
      EXPECT_EQ(0, std::memcmp(alone.out.data() + firsts[i] * width, together.out.data() + batch[i].first_row * width,
                               static_cast<std::size_t>(batch[i].rows * width) * sizeof(TypeParam)))
          << table.attention->name << " " << kv_type_name(kv_types()[i]);
    }
  }
}

// Every f16 number and every scale: subnormal, infinite and NaN ones too.
TEST(AttentionFormatsEdge, EveryHalfIsReadExactly) {
  // One key: the output is its value. A call reads 256 numbers.
  const AttentionShape shape = shape_of(1, 1, 256);
  Problem<float> s(shape, 1, 1);
  const std::vector<float> q = s.q;
  for (const KernelTable& table : attention_tables()) {
    for (std::uint32_t first = 0; first < 0x10000; first += 256) {
      std::vector<std::uint16_t> key(256, 0);
      std::vector<std::uint16_t> value(256);
      for (std::uint32_t i = 0; i < 256; ++i) value[i] = static_cast<std::uint16_t>(first + i);
      const void* keys = key.data();
      const void* values = value.data();
      AttentionSequence sequence{0, 1, 0, {}};
      sequence.kv = {.key_pages = &keys,
                     .value_pages = &values,
                     .type = ElementType::f16,
                     .page_tokens = 1,
                     .token_stride = 256,
                     .head_stride = 256,
                     .length = 1};
      const std::vector<double> expected =
          reference_kv_row(ElementType::f16, reinterpret_cast<const std::byte*>(value.data()), 256);
      const Output<float> actual = run<float>(table, shape, {sequence}, q);
      for (std::size_t i = 0; i < 256; ++i) {
        if (std::isnan(expected[i])) {
          ASSERT_TRUE(std::isnan(actual.out[i])) << table.attention->name << " bits " << first + i;
        } else {
          ASSERT_EQ(double{actual.out[i]}, expected[i]) << table.attention->name << " bits " << first + i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace quern
