// Bits of attention: whatever the prompt's cutting, the pages, the neighbours and the chunk of queries, a row is the same.
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
using testing_attention::round_into;
using testing_attention::run;
using testing_attention::run_chunks;
using testing_attention::run_whole;
using testing_attention::shape_of;
using testing_attention::value_of;

template <class T>
class AttentionCacheTest : public testing::Test {};
using Types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(AttentionCacheTest, Types);

TYPED_TEST(AttentionCacheTest, ChunksAndPagesEqualOnePiece) {
  const float sinks[] = {0.5F, 1.0F, -2.0F, 0.0F};
  struct Variant {
    const char* name;
    std::int64_t kv_heads;
    std::int64_t window;
    float soft_cap;
    const float* sinks;
    float scale;
  };
  const Variant variants[] = {{"plain", 4, 0, 0.0F, nullptr, 0.25F},
                              {"grouped", 2, 0, 0.0F, nullptr, 0.25F},
                              {"window", 1, 50, 0.0F, nullptr, 0.25F},
                              {"soft cap and sinks", 2, 0, 5.0F, sinks, 0.25F},
                              {"steep", 4, 0, 0.0F, nullptr, 8.0F}};
  for (const KernelTable& table : attention_tables()) {
    for (const Variant& variant : variants) {
      AttentionShape shape = shape_of(4, variant.kv_heads, 12);
      shape.window = variant.window;
      shape.soft_cap = variant.soft_cap;
      shape.sinks = variant.sinks;
      shape.scale = variant.scale;
      const Problem<TypeParam> s(shape, 100, 5);
      const Output<TypeParam> whole = run_whole(table, s);
      for (const std::int64_t chunk : {1, 7, 32, 100}) {
        EXPECT_TRUE(whole == run_chunks(table, s, kTypeOf<TypeParam>, chunk, 64))
            << table.attention->name << ", " << variant.name << ", chunks of " << chunk;
      }
      EXPECT_TRUE(whole == run_chunks(table, s, kTypeOf<TypeParam>, 33, 192))
          << table.attention->name << ", " << variant.name << ", larger pages";
    }
  }
}

// Prefill chunks, decodes and whole prompts of different sequences in one call, in any order.
TYPED_TEST(AttentionCacheTest, NeighboursDoNotChangeBits) {
  const AttentionShape shape = shape_of(6, 2, 16);
  const std::int64_t lengths[] = {100, 1, 65, 200};
  const std::int64_t firsts[] = {60, 0, 64, 0};
  std::vector<Problem<TypeParam>> sequences;
  std::vector<Pages<TypeParam>> pages;
  for (std::uint32_t i = 0; i < 4; ++i) sequences.emplace_back(shape, lengths[i], i);
  for (const auto& s : sequences) pages.emplace_back(s, kTypeOf<TypeParam>, 64);
  for (const KernelTable& table : attention_tables()) {
    for (const std::vector<std::size_t>& order : {std::vector<std::size_t>{0, 1, 2, 3}, {3, 1, 0, 2}}) {
      std::vector<TypeParam> q;
      std::vector<AttentionSequence> batch;
      std::int64_t row = 0;
      for (const std::size_t i : order) {
        const Problem<TypeParam>& s = sequences[i];
        batch.push_back({row, s.length - firsts[i], firsts[i], pages[i].view});
        q.insert(q.end(), s.q.begin() + firsts[i] * s.q_width(), s.q.end());
        row += s.length - firsts[i];
      }
      const Output<TypeParam> together = run<TypeParam>(table, shape, batch, q);
      for (std::size_t place = 0; place < order.size(); ++place) {
        const Problem<TypeParam>& s = sequences[order[place]];
        const Output<TypeParam> alone = run_whole(table, s);
        const std::int64_t first = firsts[order[place]];
        EXPECT_EQ(0, std::memcmp(alone.out.data() + first * s.q_width(),
                                 together.out.data() + batch[place].first_row * s.q_width(),
                                 static_cast<std::size_t>((s.length - first) * s.q_width()) * sizeof(TypeParam)))
            << table.attention->name << ", sequence " << order[place];
      }
    }
  }
}

// One query far into a cache, against the reference.
TYPED_TEST(AttentionCacheTest, DecodeMatchesReference) {
  const AttentionShape shape = shape_of(8, 2, 64);
  const Problem<TypeParam> s(shape, 333, 9);
  const Pages<TypeParam> pages(s, kTypeOf<TypeParam>, 128);
  const ReferenceAttentionOutput expected = s.reference(332, 1);
  const std::vector<TypeParam> q(s.q.end() - s.q_width(), s.q.end());
  for (const KernelTable& table : attention_tables()) {
    const Output<TypeParam> actual = run<TypeParam>(table, shape, {{0, 1, 332, pages.view}}, q);
    for (std::size_t i = 0; i < expected.out.size(); ++i) {
      // f32: 400 roundings; bf16: two of 2^-9, of values below 1.
      EXPECT_NEAR(value_of(actual.out[i]), expected.out[i], kTypeOf<TypeParam> == ElementType::f32 ? 400 * 0x1p-24 : 0x1p-8)
          << table.attention->name << ", element " << i;
    }
  }
}

// Keys of the cache that a row must not see, beyond its position or outside its window, may hold anything finite.
TYPED_TEST(AttentionCacheTest, HiddenKeysDoNotMatter) {
  AttentionShape shape = shape_of(2, 1, 16);
  shape.window = 40;
  Problem<TypeParam> s(shape, 140, 2);
  for (const KernelTable& table : attention_tables()) {
    const Pages<TypeParam> pages(s, kTypeOf<TypeParam>, 192);
    const std::vector<TypeParam> q(s.q.begin() + 100 * s.q_width(), s.q.begin() + 101 * s.q_width());
    const Output<TypeParam> before = run<TypeParam>(table, shape, {{0, 1, 100, pages.view}}, q);
    Problem<TypeParam> changed = s;
    for (std::int64_t p = 0; p < s.length; ++p) {
      if (p > 60 && p <= 100) continue;
      for (std::int64_t d = 0; d < 16; ++d) {
        round_into(1e4, changed.k[static_cast<std::size_t>(p * 16 + d)]);
        round_into(-1e4, changed.v[static_cast<std::size_t>(p * 16 + d)]);
      }
    }
    const Pages<TypeParam> other(changed, kTypeOf<TypeParam>, 192);
    EXPECT_TRUE(before == run<TypeParam>(table, shape, {{0, 1, 100, other.view}}, q)) << table.attention->name;
  }
}

}  // namespace
}  // namespace quern
