// What running a model takes, against sums by hand and the cache itself.
#include "model/model_memory.hpp"

#include <gtest/gtest.h>

#include "model/kv_cache.hpp"

namespace quern {
namespace {

ModelConfig model() {
  ModelConfig c;
  c.vocab = 1000;
  c.layers = 4;
  c.width = 128;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 32;
  c.mlp_width = 256;
  return c;
}

// Keys and values, 4 layers, 2 heads of 32, in whole pages.
TEST(ModelMemory, CacheHoldsKeysAndValuesOfEveryLayer) {
  const RunMemory memory = run_memory(model(), 1000, 1024);
  constexpr std::size_t kElements = 2 * 4 * 2 * 32 * 1024;
  EXPECT_EQ(memory.kv_bytes[0], kElements * 4);
  EXPECT_EQ(memory.kv_bytes[1], kElements * 2);
  EXPECT_EQ(memory.kv_bytes[2], kElements / 32 * 34);
  EXPECT_EQ(memory.total_bytes(1), 1000 + kElements * 2 + memory.working_bytes);
}

TEST(ModelMemory, WindowedLayersKeepTheirWindow) {
  ModelConfig c = model();
  c.window = 64;
  c.window_period = 2;  // layers 0 and 2
  const auto windowed = run_memory(c, 0, 65536).kv_bytes[1], full = run_memory(model(), 0, 65536).kv_bytes[1];
  ASSERT_TRUE(windowed && full);
  EXPECT_GT(*windowed, *full / 2);
  EXPECT_LT(*windowed, *full / 2 + *full / 50);
  auto cache = KvCache::create(c, ElementType::f16, 65536, 1, 256);
  ASSERT_TRUE(cache) << cache.error().message;
  EXPECT_EQ(cache->bytes(), *windowed);
}

TEST(ModelMemory, TypesThatDoNotFitTheHeadsHaveNoFigure) {
  ModelConfig c = model();
  c.head_dim = 20;
  const RunMemory memory = run_memory(c, 0, 100);
  EXPECT_TRUE(memory.kv_bytes[1]);
  EXPECT_FALSE(memory.kv_bytes[2]);
  EXPECT_FALSE(memory.total_bytes(2));
  EXPECT_FALSE(run_memory(model(), 0, std::int64_t{1} << 60).kv_bytes[0]);
}

// batch 256: residual and norm 2 * 128, q k v 256, attention 128, gate up and activation 3 * 256; logits 1000 + 2 * 128.
TEST(ModelMemory, WorkingMemoryIsABatchOfActivations) {
  EXPECT_EQ(run_memory(model(), 0, 1024).working_bytes, 4U * (256 * (256 + 256 + 128 + 768) + 1256));
  EXPECT_EQ(run_memory(model(), 0, 10).batch_tokens, 10);
  ModelConfig experts = model();
  experts.experts = 8;
  experts.experts_used = 2;
  EXPECT_EQ(run_memory(experts, 0, 1024).working_bytes, 4U * (256 * (256 + 256 + 128 + 8 + 2 * (768 + 256)) + 1256));
}

}  // namespace
}  // namespace quern
