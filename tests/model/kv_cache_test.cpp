#include "model/kv_cache.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <limits>
#include <string>

#include "kv_cache_support.hpp"
#include "math/number_formats.hpp"

namespace quern {
namespace {

using testing_kv::config;
using testing_kv::read_row;

constexpr std::int64_t kHead = 32;

std::vector<float> numbers(std::int64_t first) {
  std::vector<float> row(2 * kHead);
  // Blocks of q8_0 and q4_0 with the extreme -128 hold multiples of 128 / 8 exactly; every position has a scale of its own.
  for (std::size_t i = 0; i < row.size(); ++i) {
    row[i] = (static_cast<float>(i * 5 % 16) - 8.0F) * static_cast<float>(1 << (first % 7));
  }
  return row;
}

TEST(KvCache, RowsOfEveryTypeAreDistinctAndReadBackThroughTheView) {
  for (const ElementType type : kv_types()) {
    SCOPED_TRACE(kv_type_name(type));
    auto cache = KvCache::create(config(3, kHead), type, 200, 2).value();
    EXPECT_EQ(cache.type(), type);
    const auto a = cache.add_sequence().value();
    const auto b = cache.add_sequence().value();
    ASSERT_TRUE(cache.extend(a, 70));
    ASSERT_TRUE(cache.extend(b, 65));
    ASSERT_TRUE(cache.extend(a, 40));
    const auto stamp = [](KvCache::SequenceId s, std::int64_t layer, std::int64_t p) { return p + 3 * layer + 5 * s; };
    for (const auto s : {a, b}) {
      for (std::int64_t layer = 0; layer < 3; ++layer) {
        for (std::int64_t p = 0; p < cache.length(s); ++p) {
          const std::vector<float> key = numbers(stamp(s, layer, p));
          const std::vector<float> value = numbers(stamp(s, layer, p) + 1);
          if (p % 2 == 0) {
            cache.store(s, layer, p, key.data(), value.data());
            continue;
          }
          std::vector<bf16> halves[2];
          for (const float x : key) halves[0].push_back(bf16_from_float(x));
          for (const float x : value) halves[1].push_back(bf16_from_float(x));
          cache.store(s, layer, p, halves[0].data(), halves[1].data());
        }
      }
    }
    for (const auto s : {a, b}) {
      for (std::int64_t layer = 0; layer < 3; ++layer) {
        const KvView view = cache.view(s, layer);
        EXPECT_EQ(view.length, cache.length(s));
        EXPECT_EQ(view.type, type);
        EXPECT_EQ(view.page_tokens % kKeyBlock, 0);
        for (std::int64_t p = 0; p < view.length; ++p) {
          for (const bool value : {false, true}) {
            const std::vector<double> row = read_row(cache, s, layer, p, value);
            const std::vector<float> expected = numbers(stamp(s, layer, p) + (value ? 1 : 0));
            for (std::size_t i = 0; i < row.size(); ++i) {
              // q8_0 has 127 steps up to 8: off by half a step, and by f16's rounding of the step.
              const double bound = type == ElementType::q8_0
                                       ? 8.0 * (1 << ((stamp(s, layer, p) + (value ? 1 : 0)) % 7)) * (1.0 / 254 + 0x1p-11)
                                       : 0.0;
              ASSERT_NEAR(row[i], double{expected[i]}, bound) << "layer " << layer << " position " << p << " element " << i;
            }
          }
        }
      }
    }
  }
}

TEST(KvCache, PagesComeBack) {
  auto cache = KvCache::create(config(3, 8), ElementType::bf16, 2 * kPageTokens, 1).value();
  const auto s = cache.add_sequence().value();
  const auto second = cache.add_sequence();
  ASSERT_FALSE(second) << "one sequence at most";
  EXPECT_EQ(second.error().code, ErrorCode::no_memory);
  for (int round = 0; round < 5; ++round) {
    EXPECT_EQ(cache.free_tokens(s), 2 * kPageTokens);
    ASSERT_TRUE(cache.extend(s, 2 * kPageTokens - 3));
    EXPECT_EQ(cache.free_tokens(s), 3);
    ASSERT_TRUE(cache.extend(s, 3));
    const auto full = cache.extend(s, 1);
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().code, ErrorCode::no_memory);
    EXPECT_EQ(cache.length(s), 2 * kPageTokens);
    ASSERT_TRUE(cache.truncate(s, 1));
    EXPECT_EQ(cache.length(s), 1);
    EXPECT_EQ(cache.free_tokens(), kPageTokens);
    ASSERT_TRUE(cache.truncate(s, 5)) << "nothing to cut";
    EXPECT_EQ(cache.length(s), 1);
    EXPECT_FALSE(cache.truncate(s, -1));
    ASSERT_TRUE(cache.truncate(s, 0));
  }
  cache.remove_sequence(s);
  EXPECT_EQ(cache.free_tokens(), 2 * kPageTokens);
  const auto again = cache.add_sequence();
  ASSERT_TRUE(again);
  EXPECT_EQ(cache.length(*again), 0);
}

TEST(KvCache, BytesFollowTheFormatAndTheCapacity) {
  const ModelConfig c = config(3, 64);
  // 10 pages and one more for the second sequence; 64 tokens, 3 layers, keys and values, 2 heads of 64.
  const std::size_t elements = 11UL * 64 * 3 * 2 * 128;
  EXPECT_EQ(KvCache::bytes_needed(c, ElementType::f32, 640, 2), elements * 4);
  EXPECT_EQ(KvCache::bytes_needed(c, ElementType::f16, 640, 2), elements * 2);
  EXPECT_EQ(KvCache::bytes_needed(c, ElementType::bf16, 640, 2), elements * 2);
  EXPECT_EQ(KvCache::bytes_needed(c, ElementType::q8_0, 640, 2), elements / 32 * 34);
  EXPECT_EQ(KvCache::bytes_needed(c, ElementType::q4_0, 640, 2), elements / 32 * 18);
  auto cache = KvCache::create(c, ElementType::q8_0, 640, 2).value();
  EXPECT_EQ(cache.bytes(), elements / 32 * 34);
  EXPECT_EQ(cache.bytes_by_kind().full_layers, cache.bytes());
  EXPECT_EQ(cache.bytes_by_kind().windowed_layers, 0U);
}

TEST(KvCache, OnlyPagesInUseAreTouched) {
  const auto resident_bytes = [] {
    long total = 0, resident = 0;
    FILE* file = std::fopen("/proc/self/statm", "r");
    EXPECT_NE(file, nullptr);
    if (file == nullptr) return 0L;
    EXPECT_EQ(std::fscanf(file, "%ld %ld", &total, &resident), 2);
    std::fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
  };
  const long before = resident_bytes();
  auto cache = KvCache::create(config(4, 128), ElementType::f32, 1 << 16, 1).value();
  EXPECT_GE(cache.bytes(), 512UL << 20);
  EXPECT_EQ(cache.touched_bytes(), 0U);
  const auto s = cache.add_sequence().value();
  ASSERT_TRUE(cache.extend(s, 65));
  for (std::int64_t p = 0; p < 65; ++p) testing_kv::stamp_row(cache, s, 4, p, 1, 256);
  EXPECT_EQ(cache.touched_bytes(), 2UL * 64 * 4 * 2 * 256 * 4);
  // Room for the bookkeeping, and for huge pages at both ends.
  EXPECT_LT(resident_bytes() - before, 16L << 20);
  ASSERT_TRUE(cache.truncate(s, 0));
  ASSERT_TRUE(cache.extend(s, 128));
  EXPECT_EQ(cache.touched_bytes(), 2UL * 64 * 4 * 2 * 256 * 4) << "pages that came back are used first";
}

TEST(KvCache, RefusesHopelessSizes) {
  const ModelConfig c = config(3, 8);
  const std::size_t never = std::numeric_limits<std::size_t>::max();
  for (const std::int64_t tokens : {INT64_MAX, INT64_MAX / 4, std::int64_t{1} << 45, std::int64_t{0}, std::int64_t{-1}}) {
    EXPECT_FALSE(KvCache::create(c, ElementType::f32, tokens, 1)) << tokens;
    EXPECT_EQ(KvCache::bytes_needed(c, ElementType::f32, tokens, 1), never);
  }
  EXPECT_FALSE(KvCache::create(c, ElementType::f32, 100, INT64_MAX));
  EXPECT_FALSE(KvCache::create(c, ElementType::f32, 100, 0));
  EXPECT_FALSE(KvCache::create(c, ElementType::f32, 100, 1, -1));
  // Tokens that can be counted, of layers that cannot be held.
  const ModelConfig wide = config(1 << 20, 1 << 10);
  EXPECT_EQ(KvCache::bytes_needed(wide, ElementType::f32, std::int64_t{1} << 36, 1), never);
  // More than 4 GiB is counted right.
  EXPECT_EQ(KvCache::bytes_needed(config(64, 128), ElementType::f16, 1 << 20, 1), (1UL << 20) * 64 * 2 * 256 * 2);
}

TEST(KvCache, SaysWhichTypesAndHeadsFit) {
  for (const ElementType type : {ElementType::q8_0, ElementType::q4_0}) {
    const auto odd = KvCache::create(config(3, 80), type, 100, 1);
    ASSERT_FALSE(odd);
    EXPECT_EQ(odd.error().code, ErrorCode::bad_input);
    EXPECT_NE(odd.error().message.find(kv_type_name(type)), std::string::npos) << odd.error().message;
    EXPECT_NE(odd.error().message.find("80"), std::string::npos) << odd.error().message;
    EXPECT_TRUE(KvCache::create(config(3, 96), type, 100, 1));
  }
  EXPECT_TRUE(KvCache::create(config(3, 80), ElementType::f16, 100, 1));
  const auto other = KvCache::create(config(3, 256), ElementType::q4_k, 100, 1);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::bad_input);
}

}  // namespace
}  // namespace quern
