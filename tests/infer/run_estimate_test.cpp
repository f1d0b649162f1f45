#include "infer/run_estimate.hpp"

#include <gtest/gtest.h>

#include <string>

namespace quern {
namespace {

const PublishedShape& shape(const char* name) { return *find_published_shape(name); }

/// Bytes of the tensors of published files, and of files of these shapes that Quern wrote.
TEST(RunEstimate, WeightsWeighWhatFilesOfTheirTensorsDo) {
  struct Case {
    const char* name;
    const char* mix;
    std::size_t bytes;
  };
  for (const Case& c : {Case{"llama2-7b", "Q4_K_M", 4080263168U}, Case{"gpt-oss-20b", "MXFP4_MOE", 12096558336U}}) {
    const auto cost = model_cost(shape(c.name), c.mix);
    ASSERT_TRUE(cost) << cost.error().message;
    EXPECT_EQ(cost->weight_bytes, c.bytes) << c.name;
  }
  // Whole files, which hold some megabytes of vocabulary and metadata too.
  for (const Case& c : {Case{"llama3.1-8b", "Q4_K_M", 4920739232U}, Case{"qwen2.5-7b", "Q4_K_M", 4683074240U},
                        Case{"gemma2-9b", "Q4_K_M", 5761057728U}, Case{"qwen3-30b-a3b", "Q4_K_M", 18556686752U}}) {
    const auto cost = model_cost(shape(c.name), c.mix);
    ASSERT_TRUE(cost);
    EXPECT_LT(cost->weight_bytes, c.bytes) << c.name;
    EXPECT_GT(cost->weight_bytes + (std::size_t{10} << 20), c.bytes) << c.name;
  }
}

TEST(RunEstimate, ATokenReadsOneEmbeddingRowAndTheExpertsInUse) {
  EXPECT_NEAR(static_cast<double>(model_cost(shape("llama3.1-8b"), "Q4_0")->weight_bytes_per_token), 4.358e9, 0.5e6);
  EXPECT_NEAR(static_cast<double>(model_cost(shape("llama3.1-8b"), "Q4_K_M")->weight_bytes_per_token), 4.617e9, 0.5e6);
  EXPECT_NEAR(static_cast<double>(model_cost(shape("llama3.1-8b"), "Q8_0")->weight_bytes_per_token), 7.975e9, 0.5e6);
  const ModelCost oss = model_cost(shape("gpt-oss-20b"), "MXFP4_MOE").value();
  // One expert of one layer: three matrices of 2880 x 2880 in MXFP4, and three biases.
  const std::size_t expert = 13219200U + 3U * 2880U * 4U;
  EXPECT_EQ(oss.weight_bytes - oss.weight_bytes_per_token, 24U * 28U * expert + std::size_t{2880 / 32 * 34} * 201087U);
  // A tied embedding is read whole, as the head.
  const ModelCost gemma = model_cost(shape("gemma2-9b"), "Q8_0").value();
  EXPECT_EQ(gemma.weight_bytes, gemma.weight_bytes_per_token);
}

TEST(RunEstimate, CacheBytesByHand) {
  const ModelCost dense = model_cost(shape("llama3.1-8b"), "Q4_0", {.context_tokens = 4096}).value();
  EXPECT_EQ(dense.kv_bytes, 4096U * 32U * 2U * 1024U * 2U);
  EXPECT_EQ(dense.kv_bytes_per_token, 4096.0 * 32 * 2 * 1024 * 2);
  const ModelCost q8 =
      model_cost(shape("llama3.1-8b"), "Q4_0", {.context_tokens = 4096, .kv_type = ElementType::q8_0}).value();
  EXPECT_EQ(q8.kv_bytes, 4096U * 32U * 2U * (1024U / 32U * 34U));
  // Twelve layers see everything, twelve 128 tokens; K and V of 512 elements in f16.
  const ModelCost oss = model_cost(shape("gpt-oss-20b"), "MXFP4_MOE", {.context_tokens = 131072}).value();
  EXPECT_EQ(oss.kv_bytes_per_token, 2048.0 * 12 * (131072 + 128));
  EXPECT_GE(static_cast<double>(oss.kv_bytes), oss.kv_bytes_per_token);
}

TEST(RunEstimate, PrefillOperationsByHand) {
  // Llama 2 7B: 2 FLOP for each of 32 (4 x 4096^2 + 3 x 4096 x 11008), attention 4 x 4096 over 256 keys on average in each
  // layer, and the head for one token of 512.
  const double matrices = 2.0 * 32 * (4.0 * 4096 * 4096 + 3.0 * 4096 * 11008);
  const double attention = 32 * 4.0 * 4096 * 256;
  const double head = 2.0 * 4096 * 32000 / 512;
  EXPECT_NEAR(model_cost(shape("llama2-7b"), "Q8_0", {.prompt_tokens = 512})->prefill_flops_per_token,
              matrices + attention + head, 1e-6 * matrices);
  // Of 128 experts eight work.
  const double layer = 2.0 * (2048.0 * 4096 * 2 + 2.0 * 2048 * 512 + 2048.0 * 128 + 8 * 3.0 * 2048 * 768) + 4.0 * 4096 * 0.5;
  EXPECT_NEAR(model_cost(shape("qwen3-30b-a3b"), "Q8_0", {.prompt_tokens = 1})->prefill_flops_per_token,
              48 * layer + 2.0 * 2048 * 151936, 1e-4 * 48 * layer);
}

TEST(RunEstimate, RatesAreWallsTimesShares) {
  const ModelCost cost{.weight_bytes = 900,
                       .weight_bytes_per_token = 800,
                       .kv_bytes = 60,
                       .kv_bytes_per_token = 200.0,
                       .working_bytes = 40,
                       .prefill_flops_per_token = 500.0};
  const ReachedShares shares{.decode_dense = 0.5,
                             .decode_experts = 0.25,
                             .prefill_tiles = 0.2,
                             .prefill_tiles_experts = 0.1,
                             .prefill_int8 = 0.6,
                             .prefill_int8_experts = 0.3,
                             .prefill_vectors = 0.4};
  MachineWalls walls{.read_bytes_per_second = 10000.0,
                     .f32_flops = 1000.0,
                     .bf16_tile_flops = 5000.0,
                     .int8_vector_flops = 2000.0,
                     .usable_bytes = 1000};
  RunEstimate run = estimate_run(shape("llama2-7b"), cost, walls, shares);
  EXPECT_TRUE(run.fits);
  EXPECT_DOUBLE_EQ(run.decode_wall, 10.0);
  EXPECT_DOUBLE_EQ(run.decode, 5.0);
  EXPECT_DOUBLE_EQ(run.prefill_wall, 10.0);
  EXPECT_DOUBLE_EQ(run.prefill, 2.0);
  run = estimate_run(shape("gpt-oss-20b"), cost, walls, shares);
  EXPECT_DOUBLE_EQ(run.decode, 2.5);
  EXPECT_DOUBLE_EQ(run.prefill, 1.0);
  walls.bf16_tile_flops = 0.0;
  EXPECT_DOUBLE_EQ(estimate_run(shape("llama2-7b"), cost, walls, shares).prefill, 2.4);
  EXPECT_DOUBLE_EQ(estimate_run(shape("gpt-oss-20b"), cost, walls, shares).prefill, 1.2);
  EXPECT_EQ(prefill_roof(walls, shares, false).what, "int8 vectors");
  walls.int8_vector_flops = 0.0;
  walls.usable_bytes = 999;
  run = estimate_run(shape("llama2-7b"), cost, walls, shares);
  EXPECT_FALSE(run.fits);
  EXPECT_DOUBLE_EQ(run.prefill, 0.8);
  EXPECT_EQ(estimate_run(shape("llama2-7b"), cost, {}, shares).decode, 0.0);
}

TEST(RunEstimate, EveryModelHasACostInEveryUsualType) {
  for (const PublishedShape& published : published_shapes()) {
    std::size_t before = 0;
    for (const std::string_view mix : usual_mixes(published)) {
      const auto cost = model_cost(published, mix);
      ASSERT_TRUE(cost) << published.name << ' ' << mix << ": " << cost.error().message;
      EXPECT_GT(cost->weight_bytes, before) << published.name << ' ' << mix;  // more bits, more bytes
      before = cost->weight_bytes;
    }
  }
}

TEST(RunEstimate, WhatDoesNotExistIsNamed) {
  const auto mix = model_cost(shape("llama2-7b"), "Q9_X");
  ASSERT_FALSE(mix);
  EXPECT_NE(mix.error().message.find("Q9_X"), std::string::npos);
  EXPECT_FALSE(model_cost(shape("llama2-7b"), "Q8_0", {.context_tokens = 0}));
  const auto kv = model_cost(shape("llama2-7b"), "Q8_0", {.kv_type = ElementType::q4_0});
  ASSERT_FALSE(kv);
  EXPECT_NE(kv.error().message.find("Q4_0"), std::string::npos);
}

}  // namespace
}  // namespace quern
