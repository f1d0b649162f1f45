// Hyper-parameters and tensors of GGUF models: what is read, and what each kind of wrong file gets.
#include "model/gguf_model.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "support/gguf_builder.hpp"
#include "support/published_models.hpp"

namespace quern {
namespace {

PublishedModel model_named(const std::string& name) {
  for (const PublishedModel& model : published_models()) {
    if (model.name == name) return model;
  }
  ADD_FAILURE() << name;
  return {};
}

ModelConfig config_of(const std::string& name) {
  const std::vector<std::byte> image = published_model_image(model_named(name));
  const auto file = GgufFile::parse(image, "image");
  const auto config = model_config_from_gguf(*file);
  EXPECT_TRUE(config) << config.error().message;
  return config.value_or(ModelConfig{});
}

TEST(GgufModelConfig, ReadsEachArchitecturesRow) {
  const ModelConfig llama = config_of("llama3");
  EXPECT_EQ(llama.rope_pairing, RopePairing::adjacent);
  EXPECT_EQ(llama.rope_scaling, RopeScaling::factors);
  EXPECT_EQ(llama.rope_factors.size(), 8U);
  EXPECT_TRUE(llama.tied_embeddings);
  EXPECT_FALSE(llama.has_qkv_bias());
  const ModelConfig qwen2 = config_of("qwen2");
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.attention_bias);
  EXPECT_EQ(config_of("qwen3").head_dim, 32);
  EXPECT_TRUE(config_of("qwen3").qk_norm);
  EXPECT_EQ(config_of("qwen3moe").experts, 5);
  const ModelConfig gemma3 = config_of("gemma3");
  EXPECT_FLOAT_EQ(gemma3.embedding_scale, 8.0F);
  EXPECT_TRUE(gemma3.windowed(4));
  EXPECT_FALSE(gemma3.windowed(5));
  EXPECT_FLOAT_EQ(gemma3.rope_base_windowed, 10000.0F);
  EXPECT_EQ(gemma3.rope_scaling, RopeScaling::linear);
  const ModelConfig gemma2 = config_of("gemma2");
  EXPECT_TRUE(gemma2.windowed(0));
  EXPECT_FALSE(gemma2.windowed(1));
  EXPECT_FLOAT_EQ(gemma2.attention_soft_cap, 5.0F);
  EXPECT_EQ(config_of("phi3_longrope").rope_factors_long.size(), 8U);
  EXPECT_EQ(config_of("phi3").window, 0);
  EXPECT_EQ(config_of("gpt2").position, PositionKind::learned);
  const ModelConfig oss = config_of("gpt_oss");
  EXPECT_EQ(oss.mlp, MlpKind::swiglu_clamped);
  EXPECT_TRUE(oss.attention_sinks && oss.attention_bias && oss.router_bias && oss.mlp_bias);
  EXPECT_EQ(oss.rope_scaling, RopeScaling::yarn);
}

/// GPT-OSS-20B's YaRN: facts stated by its reference implementation.
TEST(GgufModelConfig, YarnTurnsPairsAsStated) {
  ModelConfig c;
  c.head_dim = 64;
  c.rope_base = 150000.0F;
  c.rope_scaling = RopeScaling::yarn;
  c.rope_factor = 32.0F;
  c.rope_original_context = 4096;
  const std::vector<float> table = make_rope_table(c, 2);
  const double magnitude = 1.0 + 0.1 * std::log(32.0);
  EXPECT_NEAR(magnitude, 1.34657, 1e-5);
  // Pair 8 (corr(32) = 8.09, rounded down) is not scaled, pair 18 (17.40, rounded up) is scaled in full.
  const double fast = std::pow(150000.0, -16.0 / 64.0);
  const double slow = std::pow(150000.0, -36.0 / 64.0) / 32.0;
  EXPECT_NEAR(table[64 + 8], std::cos(fast) * magnitude, 1e-6);
  EXPECT_NEAR(table[64 + 32 + 8], std::sin(fast) * magnitude, 1e-6);
  EXPECT_NEAR(table[64 + 32 + 18], std::sin(slow) * magnitude, 1e-9);
}

TEST(GgufModelConfig, LongRopeTakesTheFactorsOfTheContextInUse) {
  const ModelConfig c = config_of("phi3_longrope");
  const std::vector<float> near = make_rope_table(c, 16);
  const std::vector<float> far = make_rope_table(c, 17);
  const double base_angle = std::pow(50000.0, -2.0 / 16.0);
  EXPECT_NEAR(near[16 + 8 + 1], 1.19 * std::sin(base_angle / 1.1), 1e-5);
  EXPECT_NEAR(far[16 + 8 + 1], 1.19 * std::sin(base_angle / 1.7), 1e-5);
}

/// A small file of one architecture in which a test may put something wrong.
struct Parts {
  std::string architecture = "llama";
  std::vector<std::pair<std::string, std::uint32_t>> numbers = {{"context_length", 16},      {"embedding_length", 8},
                                                                {"block_count", 1},          {"feed_forward_length", 12},
                                                                {"attention.head_count", 2}, {"attention.head_count_kv", 1}};
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> tensors = {
      {"token_embd.weight", {8, 5}},        {"output_norm.weight", {8}},       {"blk.0.attn_norm.weight", {8}},
      {"blk.0.attn_q.weight", {8, 8}},      {"blk.0.attn_k.weight", {8, 4}},   {"blk.0.attn_v.weight", {8, 4}},
      {"blk.0.attn_output.weight", {8, 8}}, {"blk.0.ffn_norm.weight", {8}},    {"blk.0.ffn_gate.weight", {8, 12}},
      {"blk.0.ffn_up.weight", {8, 12}},     {"blk.0.ffn_down.weight", {12, 8}}};
  std::function<void(GgufBuilder&)> extra;

  void number(const std::string& key, std::uint32_t value) {
    for (auto& entry : numbers) {
      if (entry.first == key) {
        entry.second = value;
        return;
      }
    }
    numbers.emplace_back(key, value);
  }
  void shape(const std::string& name, std::vector<std::int64_t> shape) {
    for (auto& tensor : tensors) {
      if (tensor.first == name) tensor.second = shape;
    }
  }

  /// The sentence that opening the model gives; empty where it opens.
  [[nodiscard]] std::string sentence() const {
    GgufBuilder builder;
    builder.text("general.architecture", architecture).f32(architecture + ".attention.layer_norm_rms_epsilon", 1e-5F);
    for (const auto& [key, value] : numbers) builder.u32(architecture + "." + key, value);
    if (extra) extra(builder);
    for (const auto& [name, shape] : tensors) {
      std::int64_t count = 1;
      for (const std::int64_t n : shape) count *= n;
      builder.f32_tensor(name, shape, std::vector<float>(static_cast<std::size_t>(count), 0.5F));
    }
    const std::vector<std::byte> image = builder.build();
    const auto file = GgufFile::parse(image, "model.gguf");
    if (!file) return file.error().message;
    const auto config = model_config_from_gguf(*file);
    if (!config) return config.error().message;
    const auto bound = bind_gguf_weights(*file, *config, WeightPrecision::fast, 16);
    return bound ? "" : bound.error().message;
  }
};

TEST(GgufModelErrors, AWholeModelOpens) { EXPECT_EQ(Parts().sentence(), ""); }

void expect_named(const Parts& parts, const std::vector<std::string>& words) {
  const std::string sentence = parts.sentence();
  EXPECT_TRUE(sentence.starts_with("model.gguf: ")) << sentence;
  for (const std::string& word : words) EXPECT_NE(sentence.find(word), std::string::npos) << word << " in: " << sentence;
}

TEST(GgufModelErrors, AContextBeyondMemoryIsRefused) {
  const std::vector<std::byte> image = published_model_image(model_named("llama"));
  const auto file = GgufFile::parse(image, "image");
  const auto config = model_config_from_gguf(*file);
  const auto bound = bind_gguf_weights(*file, *config, WeightPrecision::fast, std::int64_t{1} << 40);
  ASSERT_FALSE(bound);
  EXPECT_EQ(bound.error().code, ErrorCode::no_memory);
}

TEST(GgufModelErrors, UnknownArchitecturesAreNamed) {
  Parts parts;
  parts.architecture = "mamba";
  expect_named(parts, {"general.architecture", "llama", "gpt-oss", "\"mamba\""});
}

TEST(GgufModelErrors, HyperParametersAreNamed) {
  const auto with = [](const std::string& key, std::uint32_t value) {
    Parts parts;
    parts.number(key, value);
    return parts;
  };
  expect_named(with("block_count", 0), {"llama.block_count", "0"});
  expect_named(with("block_count", 100000), {"llama.block_count", "100000"});
  expect_named(with("attention.head_count", 0), {"llama.attention.head_count", "0"});
  expect_named(with("attention.head_count_kv", 3), {"llama.attention.head_count_kv", "3"});
  expect_named(with("attention.head_count", 3), {"3"});
  expect_named(with("attention.value_length", 8), {"llama.attention.value_length", "8"});
  expect_named(with("rope.dimension_count", 6), {"rope_dims", "6"});
  expect_named(with("rope.dimension_count", 3), {"3"});
  for (const auto& number : Parts().numbers) {
    if (number.first == "attention.head_count_kv") continue;  // as many as heads
    Parts missing;
    std::erase_if(missing.numbers, [&](const auto& n) { return n.first == number.first; });
    expect_named(missing, {"llama." + number.first});
  }
  Parts experts = with("expert_count", 4);
  expect_named(experts, {"llama.expert_used_count"});
  experts.number("expert_used_count", 5);
  expect_named(experts, {"llama.expert_used_count", "5"});
  experts.number("expert_used_count", 2);
  experts.number("expert_shared_count", 1);
  expect_named(experts, {"llama.expert_shared_count", "not supported"});
}

TEST(GgufModelErrors, FeaturesThatAreNotThereAreNamed) {
  Parts parts;
  parts.extra = [](GgufBuilder& b) { b.text("llama.rope.scaling.type", "magic"); };
  expect_named(parts, {"llama.rope.scaling.type", "magic", "not supported"});
  parts.extra = [](GgufBuilder& b) { b.f32("llama.rope.scaling.factor", -2.0F); };
  expect_named(parts, {"rope_factor", "-2"});
  parts.extra = [](GgufBuilder& b) { b.boolean("llama.attention.causal", false); };
  expect_named(parts, {"llama.attention.causal", "false", "not supported"});
  parts.extra = [](GgufBuilder& b) { b.text("general.type", "adapter"); };
  expect_named(parts, {"general.type", "adapter"});
}

TEST(GgufModelErrors, TensorsAreNamed) {
  for (const auto& tensor : Parts().tensors) {
    Parts missing;
    std::erase_if(missing.tensors, [&](const auto& t) { return t.first == tensor.first; });
    expect_named(missing, {tensor.first, "missing"});
    Parts misshapen;
    misshapen.shape(tensor.first, {tensor.second[0] + 4, 7});
    expect_named(misshapen, {tensor.first == "token_embd.weight" ? "token_embd.weight" : tensor.first, "shape"});
  }
  Parts unknown;
  unknown.tensors.push_back({"blk.0.attn_q.scale", {1}});
  expect_named(unknown, {"blk.0.attn_q.scale"});
  Parts second_layer;
  second_layer.number("block_count", 2);
  expect_named(second_layer, {"blk.1.attn_norm.weight", "missing"});
}

TEST(GgufModelErrors, FactorsOfTheWrongLengthAreNamed) {
  Parts parts;
  parts.tensors.push_back({"rope_freqs.weight", {3}});
  expect_named(parts, {"rope_freqs.weight", "2", "3"});
}

}  // namespace
}  // namespace quern
