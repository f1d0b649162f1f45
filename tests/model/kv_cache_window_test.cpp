// Layers with a window: pages behind it come back, memory stays bounded, and attention gives the bits of a cache that keeps
// everything.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "kv_cache_support.hpp"
#include "math/number_formats.hpp"
#include "support/attention_harness.hpp"

namespace quern {
namespace {

using testing_kv::config;
using testing_kv::has_stamp;
using testing_kv::pages_held;
using testing_kv::stamp_row;

TEST(KvCacheWindow, LongRunsStayBoundedAndKeepTheWindow) {
  constexpr std::int64_t kWindow = 100;
  constexpr std::int64_t kBatch = 40;
  constexpr std::int64_t kLayers = 4;  // 0, 1, 2 windowed, 3 full
  auto cache = KvCache::create(config(kLayers, 4, kWindow, 4), ElementType::f32, 5000, 1, kBatch).value();
  const std::int64_t most = (kWindow + kBatch + kPageTokens - 1) / kPageTokens + 1;
  EXPECT_EQ(cache.bytes_by_kind().windowed_layers, static_cast<std::size_t>(most * kPageTokens * 3 * 2 * 8 * 4));
  EXPECT_EQ(cache.bytes_by_kind().full_layers, static_cast<std::size_t>(79 * kPageTokens * 2 * 8 * 4));
  EXPECT_EQ(cache.bytes(), KvCache::bytes_needed(config(kLayers, 4, kWindow, 4), ElementType::f32, 5000, 1, kBatch));
  const auto s = cache.add_sequence().value();
  std::mt19937 random(1);
  while (cache.length(s) < 4900) {
    const std::int64_t first = cache.length(s);
    const std::int64_t tokens = std::uniform_int_distribution<std::int64_t>(1, kBatch)(random);
    ASSERT_TRUE(cache.extend(s, tokens)) << "at " << first;
    for (std::int64_t p = first; p < first + tokens; ++p) stamp_row(cache, s, kLayers, p, p, 8);
    ASSERT_LE(std::ssize(pages_held(cache, {s}, 1)), most);
    // What the batch's first query sees is there, in windowed layers by the window.
    for (const std::int64_t p : {first - kWindow + 1, first - kWindow / 2, first, first + tokens - 1}) {
      if (p < 0) continue;
      ASSERT_TRUE(has_stamp(cache, s, 0, p, p));
      ASSERT_TRUE(has_stamp(cache, s, 2, p, p));
    }
    ASSERT_TRUE(has_stamp(cache, s, 3, 0, 0));
    ASSERT_TRUE(has_stamp(cache, s, 3, first / 2, first / 2));
  }
  EXPECT_EQ(cache.view(s, 0).key_pages[0], nullptr);
  EXPECT_LE(cache.touched_bytes(), cache.bytes());
}

// A model whose every layer has a window: tokens are counted as if there were a full layer, which takes no memory.
TEST(KvCacheWindow, ModelsWithoutFullLayers) {
  const ModelConfig c = config(2, 4, 64, 1);
  auto cache = KvCache::create(c, ElementType::f32, 10000, 2, 16).value();
  EXPECT_EQ(cache.bytes_by_kind().full_layers, 0U);
  EXPECT_EQ(cache.bytes(), 2UL * 3 * 64 * 2 * 2 * 8 * 4);
  const auto a = cache.add_sequence().value();
  const auto b = cache.add_sequence().value();
  for (const auto s : {a, b}) {
    while (cache.length(s) < 4992) ASSERT_TRUE(cache.extend(s, 16));
  }
  EXPECT_EQ(cache.free_tokens(), (157 + 1 - 2 * 78) * kPageTokens);
  ASSERT_TRUE(cache.truncate(a, 0));
  EXPECT_EQ(cache.free_tokens(), (157 + 1 - 78) * kPageTokens);
}

TEST(KvCacheWindow, CutsReachAsFarAsWhatIsKept) {
  constexpr std::int64_t kWindow = 70;
  constexpr std::int64_t kBatch = 32;
  auto cache = KvCache::create(config(2, 4, kWindow, 2), ElementType::f32, 2000, 3, kBatch).value();
  const auto s = cache.add_sequence().value();
  EXPECT_EQ(cache.earliest_cut(s), 0);
  while (cache.length(s) < 96) ASSERT_TRUE(cache.extend(s, kBatch));
  EXPECT_EQ(cache.earliest_cut(s), 0) << "nothing was given back yet";
  while (cache.length(s) < 640) {
    const std::int64_t before = cache.length(s);
    ASSERT_TRUE(cache.extend(s, kBatch));
    ASSERT_LE(cache.earliest_cut(s), before) << "the last batch can always be taken back";
  }
  const std::int64_t earliest = cache.earliest_cut(s);
  ASSERT_GT(earliest, 0);
  // Position `earliest` sees earliest - window + 1, the first that is kept.
  const KvView view = cache.view(s, 0);
  EXPECT_NE(view.key_pages[(earliest - kWindow + 1) / kPageTokens], nullptr);
  EXPECT_EQ(view.key_pages[(earliest - kWindow) / kPageTokens], nullptr);

  const std::int64_t free = cache.free_tokens();
  for (const std::int64_t length : {std::int64_t{1}, earliest - 1}) {
    const auto cut = cache.truncate(s, length);
    ASSERT_FALSE(cut);
    EXPECT_EQ(cut.error().code, ErrorCode::bad_input);
    EXPECT_NE(cut.error().message.find(std::to_string(earliest)), std::string::npos) << cut.error().message;
    EXPECT_EQ(cache.length(s), 640);
    EXPECT_FALSE(cache.fork(s, length));
  }
  EXPECT_EQ(cache.free_tokens(), free);
  const auto fork = cache.fork(s, earliest);
  ASSERT_TRUE(fork);
  EXPECT_EQ(cache.earliest_cut(*fork), earliest);
  ASSERT_TRUE(cache.truncate(s, earliest));
  EXPECT_EQ(cache.length(s), earliest);
  ASSERT_TRUE(cache.extend(s, kBatch));
  ASSERT_TRUE(cache.truncate(s, 0)) << "starting over is always possible";
  EXPECT_EQ(cache.earliest_cut(s), 0);
  cache.remove_sequence(*fork);
  EXPECT_EQ(cache.free_tokens(), (32 + 2) * kPageTokens);
}

TEST(KvCacheWindow, BatchesAboveTheLimitAreRefused) {
  auto cache = KvCache::create(config(2, 4, 70, 2), ElementType::f32, 2000, 1, 32).value();
  const auto s = cache.add_sequence().value();
  const auto more = cache.extend(s, 33);
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, ErrorCode::bad_input);
  EXPECT_EQ(cache.length(s), 0);
  EXPECT_FALSE(cache.extend(s, -1));
  EXPECT_TRUE(cache.extend(s, 0));
}

// Where a batch may have any size nothing can be given back, and everything still works.
TEST(KvCacheWindow, UnlimitedBatchesKeepEverything) {
  auto cache = KvCache::create(config(2, 4, 70, 2), ElementType::f32, 1000, 1).value();
  const auto s = cache.add_sequence().value();
  ASSERT_TRUE(cache.extend(s, 1000));
  EXPECT_NE(cache.view(s, 0).key_pages[0], nullptr);
  ASSERT_TRUE(cache.truncate(s, 1));
}

// The same queries, keys and values over a cache that recycles and one that keeps everything.
template <class T>
void expect_equal_to_full_cache(ElementType type, std::int64_t window, bool sinks) {
  using namespace testing_attention;
  constexpr std::int64_t kBatch = 24;
  AttentionShape shape = shape_of(4, 2, 32);
  shape.window = window;
  const float sink[] = {0.5F, -1.0F, 2.0F, 0.0F};
  if (sinks) shape.sinks = sink;
  const Problem<T> problem(shape, 400, 31);
  const ModelConfig c = config(2, 32, window, 2);
  auto recycling = KvCache::create(c, type, 400, 2, kBatch).value();
  auto keeping = KvCache::create(c, type, 400, 1).value();
  ASSERT_LT(recycling.bytes_by_kind().windowed_layers, keeping.bytes_by_kind().windowed_layers);
  const auto a = recycling.add_sequence().value();
  const auto b = keeping.add_sequence().value();
  std::mt19937 random(3);
  std::int64_t first = 0;
  bool cut_back = false;
  while (first < problem.length) {
    const std::int64_t rows =
        std::min(std::uniform_int_distribution<std::int64_t>(1, kBatch)(random), problem.length - first);
    for (const auto& [cache, s] : {std::pair(&recycling, a), std::pair(&keeping, b)}) {
      ASSERT_TRUE(cache->extend(s, rows));
      for (std::int64_t p = first; p < first + rows; ++p) {
        cache->store(s, 0, p, problem.k.data() + p * problem.kv_width(), problem.v.data() + p * problem.kv_width());
      }
    }
    const std::vector<T> q(problem.q.begin() + first * problem.q_width(),
                           problem.q.begin() + (first + rows) * problem.q_width());
    for (const KernelTable& table : attention_tables()) {
      const Output<T> got = run<T>(table, shape, {{0, rows, first, recycling.view(a, 0)}}, q);
      const Output<T> expected = run<T>(table, shape, {{0, rows, first, keeping.view(b, 0)}}, q);
      ASSERT_TRUE(got == expected) << table.attention->name << " " << kv_type_name(type) << " window " << window << " rows "
                                   << first << " to " << first + rows;
    }
    first += rows;
    if (first > 300 && !cut_back) {
      cut_back = true;
      first = recycling.earliest_cut(a);
      ASSERT_GT(first, 0);
      ASSERT_TRUE(recycling.truncate(a, first));
      ASSERT_TRUE(keeping.truncate(b, first));
    }
  }
  EXPECT_EQ(recycling.view(a, 0).key_pages[0], nullptr);
}

TEST(KvCacheWindow, AttentionEqualsThatOfAFullCache) {
  for (const std::int64_t window : {1, 63, 64, 65, 100}) {
    expect_equal_to_full_cache<float>(ElementType::f32, window, false);
    expect_equal_to_full_cache<bf16>(ElementType::bf16, window, true);
  }
  expect_equal_to_full_cache<float>(ElementType::q8_0, 64, true);
  expect_equal_to_full_cache<bf16>(ElementType::q4_0, 100, false);
  expect_equal_to_full_cache<bf16>(ElementType::f16, 33, true);
}

}  // namespace
}  // namespace quern
