#include "model/kv_cache.hpp"

#include <gtest/gtest.h>

#include <cstring>

namespace quern {
namespace {

ModelConfig config() {
  ModelConfig c;
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 8;
  return c;
}

TEST(KvCache, RowsAreDistinctAndReadBackThroughTheView) {
  auto cache = KvCache::create(config(), ElementType::f32, 200, 2).value();
  const auto a = cache.add_sequence().value();
  const auto b = cache.add_sequence().value();
  ASSERT_TRUE(cache.extend(a, 70));
  ASSERT_TRUE(cache.extend(b, 65));
  ASSERT_TRUE(cache.extend(a, 40));
  float next = 1.0F;
  const auto fill = [&](KvCache::SequenceId s) {
    for (std::int64_t layer = 0; layer < 3; ++layer) {
      for (std::int64_t p = 0; p < cache.length(s); ++p) {
        for (std::byte* row : {cache.key_row(s, layer, p), cache.value_row(s, layer, p)}) {
          for (int i = 0; i < 16; ++i, next += 1.0F) std::memcpy(row + i * 4, &next, 4);
        }
      }
    }
  };
  fill(a);
  fill(b);
  float expected = 1.0F;
  for (const auto s : {a, b}) {
    for (std::int64_t layer = 0; layer < 3; ++layer) {
      const KvView view = cache.view(s, layer);
      EXPECT_EQ(view.length, cache.length(s));
      EXPECT_EQ(view.page_tokens % kKeyBlock, 0);
      for (std::int64_t p = 0; p < view.length; ++p) {
        for (const bool value : {false, true}) {
          const void* const* pages = value ? view.value_pages : view.key_pages;
          const auto* page = reinterpret_cast<const float*>(static_cast<const std::byte*>(pages[p / view.page_tokens]) +
                                                            (value ? view.value_offset : view.key_offset));
          for (std::int64_t head = 0; head < 2; ++head) {
            const float* row = page + (p % view.page_tokens) * view.token_stride + head * view.head_stride;
            for (int i = 0; i < 8; ++i, expected += 1.0F) ASSERT_EQ(row[i], expected);
          }
        }
      }
    }
  }
}

TEST(KvCache, PagesComeBack) {
  auto cache = KvCache::create(config(), ElementType::bf16, 2 * kPageTokens, 1).value();
  const auto s = cache.add_sequence().value();
  EXPECT_FALSE(cache.add_sequence()) << "one sequence at most";
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(cache.extend(s, 2 * kPageTokens));
    const auto full = cache.extend(s, 1);
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().code, ErrorCode::no_memory);
    EXPECT_EQ(cache.length(s), 2 * kPageTokens);
    cache.truncate(s, 1);
    EXPECT_EQ(cache.length(s), 1);
    EXPECT_EQ(cache.free_tokens(), kPageTokens);
    cache.truncate(s, 0);
  }
  cache.remove_sequence(s);
  EXPECT_EQ(cache.free_tokens(), 2 * kPageTokens);
  EXPECT_TRUE(cache.add_sequence());
}

TEST(KvCache, RefusesHopelessSizes) {
  EXPECT_FALSE(KvCache::create(config(), ElementType::f32, INT64_MAX / 4, 1));
  EXPECT_FALSE(KvCache::create(config(), ElementType::f32, std::int64_t{1} << 45, 1));
  EXPECT_FALSE(KvCache::create(config(), ElementType::f32, 0, 1));
}

}  // namespace
}  // namespace quern
