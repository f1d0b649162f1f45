// Forks of sequences: shared pages, copies when written, and a pool that runs dry.
#include <gtest/gtest.h>

#include "kv_cache_support.hpp"

namespace quern {
namespace {

using testing_kv::config;
using testing_kv::has_stamp;
using testing_kv::pages_held;
using testing_kv::stamp_row;

constexpr std::int64_t kLayers = 2;
constexpr std::int64_t kWidth = 8;  // 2 heads of 4

KvCache make_cache(std::int64_t pages, std::int64_t sequences) {
  return KvCache::create(config(kLayers, 4), ElementType::f32, (pages - sequences + 1) * kPageTokens, sequences).value();
}

/// Appends positions with stamp = base + position.
void append(KvCache& cache, KvCache::SequenceId s, std::int64_t tokens, std::int64_t base) {
  const std::int64_t first = cache.length(s);
  ASSERT_TRUE(cache.extend(s, tokens));
  for (std::int64_t p = first; p < first + tokens; ++p) stamp_row(cache, s, kLayers, p, base + p, kWidth);
}

void expect_stamps(const KvCache& cache, KvCache::SequenceId s, std::int64_t begin, std::int64_t end, std::int64_t base) {
  for (std::int64_t layer = 0; layer < kLayers; ++layer) {
    for (std::int64_t p = begin; p < end; ++p) ASSERT_TRUE(has_stamp(cache, s, layer, p, base + p));
  }
}

TEST(KvCacheSharing, AForkHasThePrefixAndTakesNoPages) {
  KvCache cache = make_cache(8, 4);
  const auto a = cache.add_sequence().value();
  append(cache, a, 200, 0);
  for (const std::int64_t length : {0, 1, 63, 64, 65, 200}) {
    const std::int64_t free = cache.free_tokens();
    const auto b = cache.fork(a, length).value();
    EXPECT_NE(a, b);
    EXPECT_EQ(cache.length(b), length);
    EXPECT_EQ(cache.free_tokens(), free);
    expect_stamps(cache, b, 0, length, 0);
    cache.remove_sequence(b);
    EXPECT_EQ(cache.free_tokens(), free);
  }
  expect_stamps(cache, a, 0, 200, 0);
}

TEST(KvCacheSharing, WritersCopyTheLastPageAndOthersKeepTheirs) {
  KvCache cache = make_cache(16, 4);
  const auto a = cache.add_sequence().value();
  append(cache, a, 150, 0);
  const auto b = cache.fork(a, 100).value();  // in the middle of a's second page
  const auto c = cache.fork(a, 150).value();
  EXPECT_EQ(pages_held(cache, {a, b, c}, 0).size(), 3U);
  append(cache, b, 40, 1000);
  EXPECT_EQ(pages_held(cache, {a, b, c}, 0).size(), 5U) << "a copy of the second page and a third one";
  append(cache, a, 5, 2000);
  append(cache, c, 3, 3000);
  expect_stamps(cache, a, 0, 150, 0);
  expect_stamps(cache, a, 150, 155, 2000);
  expect_stamps(cache, b, 0, 100, 0);
  expect_stamps(cache, b, 100, 140, 1000);
  expect_stamps(cache, c, 0, 150, 0);
  expect_stamps(cache, c, 150, 153, 3000);
  // c was the last owner of its third page, so it wrote in place: one copy for two writers.
  EXPECT_EQ(pages_held(cache, {a, b, c}, 0).size(), 6U);
  cache.remove_sequence(a);
  expect_stamps(cache, b, 0, 100, 0);
  expect_stamps(cache, c, 0, 150, 0);
  cache.remove_sequence(b);
  cache.remove_sequence(c);
  EXPECT_EQ(cache.free_tokens(), 16 * kPageTokens);
}

TEST(KvCacheSharing, CuttingASharedSequenceLeavesTheOther) {
  KvCache cache = make_cache(8, 2);
  const auto a = cache.add_sequence().value();
  append(cache, a, 128, 0);
  const auto b = cache.fork(a, 128).value();
  ASSERT_TRUE(cache.truncate(a, 70));
  append(cache, a, 58, 5000);
  expect_stamps(cache, a, 0, 70, 0);
  expect_stamps(cache, a, 70, 128, 5000);
  expect_stamps(cache, b, 0, 128, 0);
}

TEST(KvCacheSharing, ForksBeyondWhatIsThereAreRefused) {
  KvCache cache = make_cache(8, 2);
  const auto a = cache.add_sequence().value();
  append(cache, a, 10, 0);
  for (const std::int64_t length : {-1, 11}) {
    const auto fork = cache.fork(a, length);
    ASSERT_FALSE(fork);
    EXPECT_EQ(fork.error().code, ErrorCode::bad_input);
  }
  const auto b = cache.fork(a, 10);
  ASSERT_TRUE(b) << "refused forks took no sequence";
  const auto c = cache.fork(a, 5);
  ASSERT_FALSE(c);
  EXPECT_EQ(c.error().code, ErrorCode::no_memory);
}

TEST(KvCacheSharing, AnEmptyPoolChangesNothing) {
  KvCache cache = make_cache(4, 3);
  const auto a = cache.add_sequence().value();
  append(cache, a, 3 * kPageTokens - 10, 0);
  const auto b = cache.fork(a, cache.length(a)).value();
  const auto c = cache.add_sequence().value();
  append(cache, c, 5, 700);
  ASSERT_EQ(cache.free_tokens(), 0);
  // b's last page is shared: even one token needs a copy. a and b stand in each other's way.
  EXPECT_EQ(cache.free_tokens(b), 0);
  EXPECT_EQ(cache.free_tokens(c), kPageTokens - 5);
  for (const auto s : {a, b}) {
    const KvView before = cache.view(s, 1);
    const auto more = cache.extend(s, 1);
    ASSERT_FALSE(more);
    EXPECT_EQ(more.error().code, ErrorCode::no_memory);
    EXPECT_EQ(cache.length(s), 3 * kPageTokens - 10);
    EXPECT_EQ(cache.view(s, 1).key_pages[2], before.key_pages[2]);
    expect_stamps(cache, s, 0, 3 * kPageTokens - 10, 0);
  }
  append(cache, c, kPageTokens - 5, 700);
  EXPECT_FALSE(cache.extend(c, 1));
  // Preempting c makes room for the copy; without b, a needs none.
  cache.remove_sequence(c);
  append(cache, b, 10, 900);
  append(cache, a, 10, 800);
  expect_stamps(cache, a, 0, 3 * kPageTokens - 10, 0);
  expect_stamps(cache, b, 3 * kPageTokens - 10, 3 * kPageTokens, 900);
  expect_stamps(cache, a, 3 * kPageTokens - 10, 3 * kPageTokens, 800);
}

TEST(KvCacheSharing, QuantizedRowsAreCopiedBitForBit) {
  for (const ElementType type : kv_types()) {
    auto cache = KvCache::create(config(kLayers, 32), type, 1000, 2).value();
    const auto a = cache.add_sequence().value();
    ASSERT_TRUE(cache.extend(a, 70));
    for (std::int64_t p = 0; p < 70; ++p) stamp_row(cache, a, kLayers, p, p, 64);
    const auto b = cache.fork(a, 67).value();
    ASSERT_TRUE(cache.extend(b, 1));
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      EXPECT_NE(cache.view(a, layer).key_pages[1], cache.view(b, layer).key_pages[1]);
      for (std::int64_t p = 0; p < 67; ++p) {
        for (const bool value : {false, true}) {
          ASSERT_EQ(testing_kv::read_row(cache, a, layer, p, value), testing_kv::read_row(cache, b, layer, p, value))
              << kv_type_name(type) << " position " << p;
        }
      }
    }
  }
}

}  // namespace
}  // namespace quern
