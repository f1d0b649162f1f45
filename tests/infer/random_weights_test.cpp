#include "infer/random_weights.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "infer/decoder.hpp"
#include "infer/loaded_model.hpp"
#include "infer/quantize_mix.hpp"
#include "infer/run_estimate.hpp"
#include "math/block_decode.hpp"

namespace quern {
namespace {

/// A published model with few and small matrices of the same kinds.
PublishedShape small(const PublishedShape& published) {
  PublishedShape shape = published;
  ModelConfig& c = shape.config;
  c.layers = 2;
  c.vocab = 288;
  c.width = 256;
  c.heads = 4;
  c.kv_heads = published.config.kv_heads == published.config.heads ? 4 : 2;
  c.head_dim = 64;
  c.mlp_width = 512;
  c.experts = std::min<std::int64_t>(c.experts, 8);
  c.experts_used = std::min<std::int64_t>(c.experts_used, 2);
  if (c.window > 0) c.window = 16;
  if (!c.rope_factors.empty()) c.rope_factors.assign(32, 1.0F);
  if (c.embedding_scale != 1.0F) c.embedding_scale = 16.0F;
  return shape;
}

PublishedShape small(const char* name) { return small(*find_published_shape(name)); }

Result<RandomWeights> make(const PublishedShape& shape, const std::string& mix, std::uint64_t seed, int threads,
                           const KernelTable& kernels) {
  ThreadTeam team(threads);
  return RandomWeights::make(shape, kernels, team, {.mix = mix, .seed = seed});
}

bool same_bytes(const RandomWeights& a, const RandomWeights& b) {
  return std::equal(a.tensors().begin(), a.tensors().end(), b.tensors().begin(), b.tensors().end(),
                    [](const GgufTensor& x, const GgufTensor& y) {
                      return x.name == y.name && x.type == y.type && x.bytes == y.bytes &&
                             std::memcmp(x.data, y.data, x.bytes) == 0;
                    });
}

std::vector<float> values_of(const GgufTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  if (tensor.type == ElementType::f32) {
    std::memcpy(values.data(), tensor.data, tensor.bytes);
  } else {
    block_decoder_portable()(tensor.type, tensor.data, tensor.elements(), values.data());
  }
  return values;
}

struct Moments {
  double mean = 0.0, deviation = 0.0;
};
Moments moments(const std::vector<float>& values) {
  double sum = 0.0, squares = 0.0;
  for (const float value : values) {
    sum += static_cast<double>(value);
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  const auto n = static_cast<double>(values.size());
  return {sum / n, std::sqrt(squares / n)};
}

TEST(RandomWeights, BytesDependOnShapeMixAndSeedAlone) {
  const PublishedShape shape = small("llama2-7b");
  const auto first = make(shape, "Q4_K_M", 7, 1, *supported_kernels().front());
  ASSERT_TRUE(first) << first.error().message;
  for (const KernelTable* kernels : supported_kernels()) {
    const auto again = make(shape, "Q4_K_M", 7, 3, *kernels);
    ASSERT_TRUE(again);
    EXPECT_TRUE(same_bytes(*first, *again)) << isa_name(kernels->isa);
  }
  EXPECT_FALSE(same_bytes(*first, *make(shape, "Q4_K_M", 8, 3, *supported_kernels().front())));
}

/// 65,536 normal values have a deviation within 0.3 % (one sigma) of theirs. Blocks are drawn with replacement, so that some
/// count twice: 1.4 times that. Quantizing to 2 bits changes it by up to a tenth, to 4 bits by a few percent, to 8 by none.
TEST(RandomWeights, MatricesAreNormalAndKeepTheSizeOfActivations) {
  struct Case {
    const char* mix;
    double tolerance;
  };
  for (const Case& c : {Case{"Q8_0", 0.02}, Case{"BF16", 0.02}, Case{"Q4_K_S", 0.05}, Case{"Q2_K_S", 0.15}}) {
    const auto weights = make(small("llama2-7b"), c.mix, 1, 2, *chosen_kernels().value());
    ASSERT_TRUE(weights) << weights.error().message;
    for (const GgufTensor& tensor : weights->tensors()) {
      SCOPED_TRACE(std::string(c.mix) + " " + std::string(tensor.name));
      const std::vector<float> values = values_of(tensor);
      if (tensor.dimensions == 1) {
        EXPECT_TRUE(std::all_of(values.begin(), values.end(), [](float value) { return value == 1.0F; }));
        continue;
      }
      const double wanted = 1.0 / std::sqrt(static_cast<double>(tensor.shape[0]));
      const Moments found = moments(values);
      EXPECT_NEAR(found.deviation, wanted, c.tolerance * wanted);
      EXPECT_NEAR(found.mean, 0.0, 0.04 * wanted);
    }
  }
}

TEST(RandomWeights, NoTwoRowsAreAlike) {
  // Rows of four pieces, as short as no published model has them, out of thousands: 2^-48 is the chance of a pair.
  PublishedShape shape = small("gpt-oss-20b");
  shape.config.width = shape.config.mlp_width = 1024;
  shape.config.heads = 16;
  const auto weights = make(shape, "MXFP4_MOE", 1, 2, *chosen_kernels().value());
  ASSERT_TRUE(weights);
  std::set<std::string_view> rows;
  std::size_t count = 0;
  for (const GgufTensor& tensor : weights->tensors()) {
    if (tensor.dimensions < 2 || !tensor.name.ends_with(".weight")) continue;
    const auto row_bytes = tensor.bytes / static_cast<std::size_t>(tensor.elements() / tensor.shape[0]);
    for (std::size_t at = 0; at < tensor.bytes; at += row_bytes, ++count) {
      rows.insert({reinterpret_cast<const char*>(tensor.data) + at, row_bytes});
    }
  }
  EXPECT_EQ(rows.size(), count);
  EXPECT_GT(count, 10000U);
  const auto biases = std::count_if(weights->tensors().begin(), weights->tensors().end(), [](const GgufTensor& tensor) {
    if (!tensor.name.ends_with(".bias")) return false;
    const double sigmas = 4.0 / std::sqrt(2.0 * static_cast<double>(tensor.elements()));  // of a sample deviation
    EXPECT_NEAR(moments(values_of(tensor)).deviation, 0.02, 0.02 * sigmas) << tensor.name;
    return true;
  });
  EXPECT_EQ(biases, 2 * 8);
}

/// Logits of five tokens of a model that is made and run.
std::vector<std::vector<float>> logits_of(const PublishedShape& shape, const std::string& mix) {
  const Backend backend{*chosen_kernels(), false};
  ThreadTeam team(2);
  const auto model = LoadedModel::random(shape, {.mix = mix}, backend, team, {.context_tokens = 32});
  EXPECT_TRUE(model) << shape.name << ' ' << mix << ": " << (model ? "" : model.error().message);
  if (!model) return {};
  EXPECT_NE((*model)->random_weights(), nullptr);
  EXPECT_EQ((*model)->path(), shape.name);
  const auto cost = model_cost(shape, mix);
  EXPECT_TRUE(cost);
  const std::size_t factors = shape.config.rope_factors.size() * sizeof(float);  // in the config, not in weights
  EXPECT_EQ((*model)->weight_bytes() + factors, cost->weight_bytes) << shape.name << ' ' << mix;
  const auto decoder = Decoder::create(backend, (*model)->weights(), team, {.batch_tokens = 8, .context_tokens = 32});
  EXPECT_TRUE(decoder);
  std::vector<std::vector<float>> all;
  for (const std::int32_t token : {1, 7, 30, 200, 287}) {
    const auto sequence = (*decoder)->cache().add_sequence().value();
    const SequenceTokens entry{sequence, std::span(&token, 1)};
    EXPECT_TRUE((*decoder)->forward(std::span(&entry, 1)));
    all.emplace_back((*decoder)->logits(0).begin(), (*decoder)->logits(0).end());
    (*decoder)->cache().remove_sequence(sequence);
  }
  return all;
}

void expect_sensible(const PublishedShape& shape, const std::string& mix) {
  SCOPED_TRACE(std::string(shape.name) + " " + mix);
  const auto logits = logits_of(shape, mix);
  ASSERT_EQ(logits.size(), 5U);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const Moments found = moments(logits[i]);
    EXPECT_GT(found.deviation, 0.3);  // a normed row times columns of unit length: 1, or as soft caps leave it
    EXPECT_LT(found.deviation, 3.0);
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(logits[i], logits[j]);
  }
}

TEST(RandomWeights, EveryShapeRunsInItsUsualTypes) {
  for (const PublishedShape& published : published_shapes()) {
    const PublishedShape shape = small(published);
    expect_sensible(shape, std::string(usual_mixes(shape).front()));
  }
}

TEST(RandomWeights, EveryMixRuns) {
  for (const std::string_view mix : mix_names()) expect_sensible(small("llama2-7b"), std::string(mix));
}

TEST(RandomWeights, WordsForMixes) {
  const PublishedShape& dense = *find_published_shape("llama2-7b");
  const PublishedShape& experts = *find_published_shape("gpt-oss-20b");
  EXPECT_EQ(mix_for(dense, "q4_k_m").value(), "Q4_K_M");
  EXPECT_EQ(mix_for(dense, "mxfp4").value(), "MXFP4");
  EXPECT_EQ(mix_for(experts, "mxfp4").value(), "MXFP4_MOE");
  EXPECT_EQ(mix_for(experts, "Mxfp4_Moe").value(), "MXFP4_MOE");
  const auto unknown = mix_for(dense, "q9_k");
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("unknown type 'q9_k'; there are Q2_K_S, "), std::string::npos)
      << unknown.error().message;
}

TEST(RandomWeights, WhatDoesNotFitIsRefusedWithNumbers) {
  const ModelNeeds needs{
      .weight_bytes = std::size_t{6} << 30, .cache_bytes = std::size_t{1} << 30, .working_bytes = 1U << 29};
  EXPECT_TRUE(check_model_fits("x", needs, std::uint64_t{15} << 29));
  EXPECT_TRUE(check_model_fits("x", needs, 0));
  const auto refused = check_model_fits("llama2-7b in Q6_K", needs, (std::uint64_t{15} << 29) - 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::bad_input);
  EXPECT_EQ(refused.error().message.substr(0, refused.error().message.find(';')),
            "llama2-7b in Q6_K needs 7.50 GiB (6.00 of weights, 1.00 of KV cache, 0.50 of working memory), this process may "
            "take 7.50 GiB");
  EXPECT_FALSE(check_model_fits("x", {.weight_bytes = 1, .cache_bytes = SIZE_MAX, .working_bytes = SIZE_MAX}, 1U << 30));
}

TEST(RandomWeights, PrecisionsAndMixesThatDoNotExistAreRefused) {
  const Backend backend{*chosen_kernels(), false};
  ThreadTeam team(1);
  const PublishedShape shape = small("llama2-7b");
  EXPECT_FALSE(LoadedModel::random(shape, {.mix = "Q8_0"}, backend, team, {.precision = Precision::bf16}));
  EXPECT_FALSE(LoadedModel::random(shape, {.mix = "Q9"}, backend, team));
}

}  // namespace
}  // namespace quern
