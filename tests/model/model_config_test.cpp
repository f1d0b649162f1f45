// ModelConfig: what is refused, JSON there and back, the parameter table, FLOP counts and initial values.
#include "model/model_config.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace quern {
namespace {

/// Llama style: every optional part of a norm, gate and tie that a row can name.
ModelConfig llama_row() {
  ModelConfig c;
  c.vocab = 97;
  c.context = 24;
  c.layers = 3;
  c.width = 20;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 6;
  c.mlp_width = 33;
  c.qk_norm = true;
  return c;
}

/// GPT-2 style: every bias, learned positions, a head of its own.
ModelConfig gpt2_row() {
  ModelConfig c = llama_row();
  c.kv_heads = 4;
  c.norm = NormKind::layer_norm;
  c.position = PositionKind::learned;
  c.mlp = MlpKind::gelu;
  c.qk_norm = false;
  c.attention_bias = c.mlp_bias = c.norm_bias = true;
  c.tied_embeddings = false;
  return c;
}

struct BadCase {
  std::string expected;  ///< part of the message
  std::function<void(ModelConfig&)> spoil;
};

TEST(ModelConfig, AcceptsBothStyles) {
  EXPECT_TRUE(validate(llama_row()));
  EXPECT_TRUE(validate(gpt2_row()));
}

TEST(ModelConfig, RefusesWhatCannotBe) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<BadCase> cases = {
      {"vocab must be 1 to", [](ModelConfig& c) { c.vocab = 0; }},
      {"vocab must be 1 to", [](ModelConfig& c) { c.vocab = std::int64_t{1} << 40; }},
      {"context", [](ModelConfig& c) { c.context = 0; }},
      {"experts must be 0 to 4096", [](ModelConfig& c) { c.experts = -1; }},
      {"experts_used must be 1 to 4, found 5", [](ModelConfig& c) { c.experts = 4, c.experts_used = 5; }},
      {"experts need a gated mlp", [](ModelConfig& c) { c.experts = c.experts_used = 2, c.mlp = MlpKind::gelu; }},
      {"rope_factor must be positive, found 0", [](ModelConfig& c) { c.rope_factor = 0.0F; }},
      {"rope_magnitude", [=](ModelConfig& c) { c.rope_magnitude = infinity; }},
      {"rope_base_windowed", [](ModelConfig& c) { c.rope_base_windowed = -1.0F; }},
      {"attention_scale", [](ModelConfig& c) { c.attention_scale = -0.5F; }},
      {"rope_original_context must be given", [](ModelConfig& c) { c.rope_scaling = RopeScaling::yarn; }},
      {"rope_factors must hold", [](ModelConfig& c) { c.rope_scaling = RopeScaling::factors; }},
      {"rope_factors_long must hold", [](ModelConfig& c) { c.rope_factors_long = {1.0F}; }},
      {"layers must be 1 to 1024, found 1025", [](ModelConfig& c) { c.layers = 1025; }},
      {"width", [](ModelConfig& c) { c.width = -1; }},
      {"width", [](ModelConfig& c) { c.width = INT64_MAX; }},
      {"heads", [](ModelConfig& c) { c.heads = INT64_MAX; }},
      {"kv_heads must divide heads (4), found 3", [](ModelConfig& c) { c.kv_heads = 3; }},
      {"kv_heads must divide heads (4), found 8", [](ModelConfig& c) { c.kv_heads = 8; }},
      {"kv_heads", [](ModelConfig& c) { c.kv_heads = 0; }},
      {"head_dim must be even with position rope, found 7", [](ModelConfig& c) { c.head_dim = 7; }},
      {"rope_dims must be at most head_dim (6), found 8", [](ModelConfig& c) { c.rope_dims = 8; }},
      {"rope_dims must be even", [](ModelConfig& c) { c.rope_dims = 3; }},
      {"heads * head_dim", [](ModelConfig& c) { c.heads = c.kv_heads = 1 << 16, c.head_dim = 1 << 20; }},
      {"mlp_width", [](ModelConfig& c) { c.mlp_width = 0; }},
      {"norm_eps", [](ModelConfig& c) { c.norm_eps = 0.0F; }},
      {"norm_eps", [](ModelConfig& c) { c.norm_eps = std::nanf(""); }},
      {"rope_base", [=](ModelConfig& c) { c.rope_base = infinity; }},
      {"embedding_scale", [](ModelConfig& c) { c.embedding_scale = 0.0F; }},
      {"final_soft_cap", [](ModelConfig& c) { c.final_soft_cap = -1.0F; }},
      {"attention_soft_cap", [=](ModelConfig& c) { c.attention_soft_cap = infinity; }},
      {"window_period", [](ModelConfig& c) { c.window_period = 0; }},
      {"window must be", [](ModelConfig& c) { c.window = -1; }},
      {"rms_norm has no bias", [](ModelConfig& c) { c.norm_bias = true; }},
      {"mlp has the unknown value", [](ModelConfig& c) { c.mlp = static_cast<MlpKind>(77); }},
      {"parameters; at most",
       [](ModelConfig& c) { c.width = 1 << 20, c.heads = c.kv_heads = 1 << 14, c.head_dim = 64, c.layers = 1024; }},
  };
  for (const BadCase& bad : cases) {
    ModelConfig config = llama_row();
    bad.spoil(config);
    const auto result = validate(config);
    ASSERT_FALSE(result) << bad.expected;
    EXPECT_NE(result.error().message.find(bad.expected), std::string::npos) << result.error().message;
    EXPECT_EQ(result.error().code, ErrorCode::bad_input);
  }
}

TEST(ModelConfig, JsonThereAndBack) {
  ModelConfig config = gpt2_row();
  config.norm_eps = 1e-6F;
  config.rope_base = 500000.0F;
  config.rope_pairing = RopePairing::adjacent;
  config.embedding_scale = 33.94113F;
  config.final_soft_cap = 30.0F;
  config.attention_soft_cap = 50.0F;
  config.window = 7;
  config.window_period = 6;
  const std::string text = to_json(config);
  const auto back = model_config_from_json(text);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(to_json(*back), text);
  EXPECT_EQ(back->norm_eps, config.norm_eps);
  EXPECT_EQ(back->embedding_scale, config.embedding_scale);
  EXPECT_EQ(back->rope_pairing, RopePairing::adjacent);
  EXPECT_EQ(back->mlp, MlpKind::gelu);
  EXPECT_EQ(back->vocab, 97);
  EXPECT_TRUE(back->norm_bias);
  EXPECT_FALSE(back->tied_embeddings);
  EXPECT_NE(text.find("1e-06"), std::string::npos) << text;
}

TEST(ModelConfig, WhatPublishedModelsAddGoesThereAndBackAndMayBeMissing) {
  ModelConfig config = llama_row();
  config.qkv_bias = config.post_norms = config.attention_sinks = config.router_bias = true;
  config.attention_scale = 0.0883883461F;
  config.rope_base_windowed = 10000.0F;
  config.rope_scaling = RopeScaling::factors;
  config.rope_original_context = 4096;
  config.rope_factors.assign(static_cast<std::size_t>(config.rotated() / 2), 1.1F);
  config.rope_factors_long.assign(static_cast<std::size_t>(config.rotated() / 2), 3.25F);
  config.experts = 8;
  config.experts_used = 2;
  const std::string text = to_json(config);
  const auto back = model_config_from_json(text);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(to_json(*back), text);
  EXPECT_EQ(back->rope_factors, config.rope_factors);
  EXPECT_EQ(back->experts_used, 2);

  // What version 1 checkpoints hold: the fields up to window_period.
  std::string old = to_json(llama_row());
  old = old.substr(0, old.find(",\n  \"qkv_bias\"")) + "\n}";
  const auto read = model_config_from_json(old);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(to_json(*read), to_json(llama_row()));
}

TEST(ModelConfig, JsonErrorsNameTheField) {
  const std::string good = to_json(llama_row());
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "malformed"},
      {"{", "malformed"},
      {"[]", "must be an object"},
      {std::string(100000, '['), "malformed"},
      {with("\"heads\": 4", "\"heads\": 4.5"), "heads must be a 64-bit integer, found a number"},
      {with("\"heads\": 4", "\"heads\": 18446744073709551615"), "heads must be a 64-bit integer"},
      {with("\"heads\": 4", "\"heads\": \"4\""), "found a string"},
      {with("\"heads\": 4,", ""), "field heads is missing"},
      {with("\"heads\": 4", "\"heads\": 4, \"heads\": 8"), "field heads appears twice"},
      {with("\"heads\": 4", "\"heads\": 4, \"haeds\": 8"), "unknown field haeds"},
      {with("\"swiglu\"", "\"swishglu\""),
       "mlp must be one of gelu, gelu_erf, relu2, swiglu, geglu, swiglu_clamped, found \"swishglu\""},
      {with("\"qk_norm\": true", "\"qk_norm\": 1"), "qk_norm must be true or false"},
      {with("\"kv_heads\": 2", "\"kv_heads\": 3"), "kv_heads must divide heads"},
      {with("\"norm_eps\": 1e-05", "\"norm_eps\": 1e999"), ""},
  };
  for (const auto& [text, expected] : cases) {
    const auto result = model_config_from_json(text);
    ASSERT_FALSE(result) << text;
    EXPECT_NE(result.error().message.find(expected), std::string::npos) << result.error().message;
  }
}

TEST(ModelConfig, WordsAreDistinct) {
  std::set<std::string_view> words;
  for (const auto kind : kNormKinds) words.insert(to_word(kind));
  for (const auto kind : kPositionKinds) words.insert(to_word(kind));
  for (const auto kind : kMlpKinds) words.insert(to_word(kind));
  for (const auto pairing : kRopePairings) words.insert(to_word(pairing));
  EXPECT_EQ(words.size(), 13U);
  std::set<std::string_view> scalings;
  for (const auto scaling : kRopeScalings) scalings.insert(to_word(scaling));
  EXPECT_EQ(scalings.size(), kRopeScalings.size());
}

TEST(ModelConfig, ActivationAndAttentionShape) {
  ModelConfig config = llama_row();
  EXPECT_EQ(config.activation(), Activation::silu);
  config.mlp = MlpKind::geglu;
  EXPECT_EQ(config.activation(), Activation::gelu_tanh);
  EXPECT_TRUE(config.gated());
  config.mlp = MlpKind::gelu_erf;
  EXPECT_EQ(config.activation(), Activation::gelu_erf);
  config.mlp = MlpKind::relu2;
  EXPECT_EQ(config.activation(), Activation::relu2);
  EXPECT_FALSE(config.gated());

  EXPECT_EQ(config.attention_shape(0).window, 0);
  EXPECT_FLOAT_EQ(config.attention_shape(0).scale, 1.0F / std::sqrt(6.0F));
  config.window = 5;
  EXPECT_EQ(config.attention_shape(2).window, 5);  // period 1: every layer
  config.window_period = 3;                        // two windowed layers, then a full one
  EXPECT_EQ(config.attention_shape(0).window, 5);
  EXPECT_EQ(config.attention_shape(1).window, 5);
  EXPECT_EQ(config.attention_shape(2).window, 0);
  EXPECT_EQ(config.attention_shape(3).window, 5);
}

TEST(ParameterLayout, NamesAndShapesOfALlamaRow) {
  const ModelConfig config = llama_row();
  const ParameterLayout layout = parameter_layout(config);
  ASSERT_EQ(layout.parameters.size(), 1U + 3U * 8U + 1U);
  EXPECT_EQ(layout.parameters[0].name, "token_embd.weight");
  EXPECT_EQ(layout.position_embedding, -1);
  EXPECT_EQ(layout.head, layout.token_embedding);
  const auto at = [&](int index) { return layout.parameters.at(static_cast<std::size_t>(index)); };
  const LayerParameters& second = layout.layers[1];
  EXPECT_EQ(at(second.norm1).name, "blk.1.attn_norm.weight");
  EXPECT_EQ(at(second.qkv).name, "blk.1.attn_qkv.weight");
  EXPECT_EQ(at(second.qkv).rows, (4 + 2 + 2) * 6);
  EXPECT_EQ(at(second.qkv).cols, 20);
  EXPECT_EQ(at(second.q_norm).name, "blk.1.attn_q_norm.weight");
  EXPECT_EQ(at(second.k_norm).rows, 6);
  EXPECT_EQ(at(second.attention_out).name, "blk.1.attn_output.weight");
  EXPECT_EQ(at(second.attention_out).rows, 20);
  EXPECT_EQ(at(second.attention_out).cols, 24);
  EXPECT_EQ(at(second.attention_out).kind, ParameterKind::residual_matrix);
  EXPECT_EQ(at(second.mlp_in).name, "blk.1.ffn_gate_up.weight");
  EXPECT_EQ(at(second.mlp_in).rows, 66);
  EXPECT_EQ(at(second.mlp_out).name, "blk.1.ffn_down.weight");
  EXPECT_EQ(at(second.mlp_out).cols, 33);
  EXPECT_EQ(second.qkv_bias, -1);
  EXPECT_EQ(at(layout.final_norm).name, "output_norm.weight");
}

TEST(ParameterLayout, NamesOfAGpt2RowInOrder) {
  const ParameterLayout layout = parameter_layout(gpt2_row());
  std::vector<std::string> names;
  for (const Parameter& parameter : layout.parameters) names.push_back(parameter.name);
  const std::vector<std::string> first = {"token_embd.weight",        "position_embd.weight",   "blk.0.attn_norm.weight",
                                          "blk.0.attn_norm.bias",     "blk.0.attn_qkv.weight",  "blk.0.attn_qkv.bias",
                                          "blk.0.attn_output.weight", "blk.0.attn_output.bias", "blk.0.ffn_norm.weight",
                                          "blk.0.ffn_norm.bias",      "blk.0.ffn_up.weight",    "blk.0.ffn_up.bias",
                                          "blk.0.ffn_down.weight",    "blk.0.ffn_down.bias"};
  ASSERT_GE(names.size(), first.size());
  EXPECT_EQ(std::vector<std::string>(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(first.size())), first);
  EXPECT_EQ(names[names.size() - 3], "output_norm.weight");
  EXPECT_EQ(names[names.size() - 2], "output_norm.bias");
  EXPECT_EQ(names.back(), "output.weight");
  EXPECT_EQ(layout.head, static_cast<int>(names.size()) - 1);
}

TEST(ParameterLayout, QkvBiasIsWithoutAnOutputBias) {
  ModelConfig config = llama_row();
  config.qkv_bias = true;
  ASSERT_TRUE(trainable(config));
  const ParameterLayout layout = parameter_layout(config);
  const LayerParameters& layer = layout.layers[1];
  EXPECT_EQ(layout.parameters.at(static_cast<std::size_t>(layer.qkv_bias)).name, "blk.1.attn_qkv.bias");
  EXPECT_EQ(layout.parameters.at(static_cast<std::size_t>(layer.qkv_bias)).count(), config.qkv_width());
  EXPECT_EQ(layer.attention_out_bias, -1);
}

TEST(ParameterLayout, PostNormsFollowTheirHalves) {
  ModelConfig config = llama_row();
  config.post_norms = true;
  ASSERT_TRUE(trainable(config));
  const ParameterLayout layout = parameter_layout(config);
  const LayerParameters& layer = layout.layers[1];
  const auto at = [&](int index) { return layout.parameters.at(static_cast<std::size_t>(index)); };
  EXPECT_EQ(at(layer.post_norm1).name, "blk.1.post_attention_norm.weight");
  EXPECT_EQ(at(layer.post_norm2).name, "blk.1.post_ffw_norm.weight");
  EXPECT_EQ(at(layer.post_norm2).count(), config.width);
  EXPECT_EQ(at(layer.post_norm2).kind, ParameterKind::norm);
  EXPECT_LT(layer.post_norm1, layer.norm2);
  EXPECT_LT(layer.mlp_out, layer.post_norm2);
}

TEST(ParameterLayout, SinksDoNotDecay) {
  ModelConfig config = llama_row();
  config.attention_sinks = true;
  ASSERT_TRUE(trainable(config));
  const ParameterLayout layout = parameter_layout(config);
  const Parameter& sinks = layout.parameters.at(static_cast<std::size_t>(layout.layers[2].sinks));
  EXPECT_EQ(sinks.name, "blk.2.attn_sinks.weight");
  EXPECT_EQ(sinks.count(), config.heads);
  EXPECT_FALSE(sinks.decays());
}

TEST(ParameterLayout, ExpertsAreFusedAndCountAsTheyAreUsed) {
  ModelConfig config = llama_row();
  const std::int64_t dense = parameter_layout(config).matmul_parameter_count();
  config.experts = 5;
  config.experts_used = 2;
  config.mlp_bias = config.router_bias = true;
  ASSERT_TRUE(validate(config));
  ASSERT_TRUE(trainable(config));
  const ParameterLayout layout = parameter_layout(config);
  const LayerParameters& layer = layout.layers[1];
  const auto at = [&](int index) { return layout.parameters.at(static_cast<std::size_t>(index)); };
  EXPECT_EQ(layer.mlp_in, -1);
  EXPECT_EQ(layer.mlp_out, -1);
  EXPECT_EQ(at(layer.router).name, "blk.1.ffn_gate_inp.weight");
  EXPECT_EQ(at(layer.router).rows, 5);
  EXPECT_EQ(at(layer.router_bias).name, "blk.1.ffn_gate_inp.bias");
  EXPECT_EQ(at(layer.expert_in).name, "blk.1.ffn_gate_up_exps.weight");
  EXPECT_EQ(at(layer.expert_in).rows, 5 * 2 * config.mlp_width);
  EXPECT_EQ(at(layer.expert_in).cols, config.width);
  EXPECT_EQ(at(layer.expert_in_bias).count(), 5 * 2 * config.mlp_width);
  EXPECT_EQ(at(layer.expert_out).name, "blk.1.ffn_down_exps.weight");
  EXPECT_EQ(at(layer.expert_out).rows, 5 * config.width);
  EXPECT_EQ(at(layer.expert_out).cols, config.mlp_width);
  EXPECT_EQ(at(layer.expert_out).kind, ParameterKind::residual_matrix);
  EXPECT_EQ(at(layer.expert_out_bias).count(), 5 * config.width);
  // A token meets the router and two experts of the dense part's size.
  EXPECT_EQ(layout.matmul_parameter_count(),
            dense + config.layers * (5 * config.width + 3 * config.mlp_width * config.width));
}

TEST(ParameterLayout, OffsetsAreAlignedAndDoNotOverlap) {
  for (const ModelConfig& config : {llama_row(), gpt2_row()}) {
    const ParameterLayout layout = parameter_layout(config);
    std::int64_t end = 0, count = 0;
    for (const Parameter& parameter : layout.parameters) {
      EXPECT_EQ(parameter.offset % 16, 0) << parameter.name;
      EXPECT_GE(parameter.offset, end) << parameter.name;
      EXPECT_LT(parameter.offset - end, 16) << parameter.name;
      end = parameter.offset + parameter.count();
      count += parameter.count();
    }
    EXPECT_GE(layout.elements, end);
    EXPECT_EQ(layout.elements % 16, 0);
    EXPECT_EQ(layout.parameter_count(), count);
  }
}

// The character model of nanoGPT: 10.65 million parameters are known from its own report (10,646,784 without positions).
TEST(ParameterLayout, CountsOfTheCharacterModel) {
  ModelConfig c;
  c.vocab = 65;
  c.context = 256;
  c.layers = 6;
  c.width = 384;
  c.heads = c.kv_heads = 6;
  c.head_dim = 64;
  c.mlp_width = 1536;
  c.norm = NormKind::layer_norm;
  c.position = PositionKind::learned;
  c.mlp = MlpKind::gelu;
  const ParameterLayout layout = parameter_layout(c);
  EXPECT_EQ(layout.parameter_count() - 256 * 384, 10646784);
  const std::int64_t matrices = 6 * 12 * 384 * 384 + 65 * 384;
  EXPECT_EQ(layout.matmul_parameter_count(), matrices);
  EXPECT_DOUBLE_EQ(train_flops_per_token(c, 256), 6.0 * static_cast<double>(matrices) + 6.0 * 6 * 384 * 256);
  c.window = 256;  // a window as long as the context hides nothing
  EXPECT_DOUBLE_EQ(train_flops_per_token(c, 256), 6.0 * static_cast<double>(matrices) + 6.0 * 6 * 384 * 256);
  c.window = 64;
  EXPECT_DOUBLE_EQ(train_flops_per_token(c, 256),
                   6.0 * static_cast<double>(matrices) + 12.0 * 6 * 384 * (64.0 - 64.0 * 64.0 / 512.0));
  c.tied_embeddings = false;  // the head stays one matrix product, the lookup still none
  EXPECT_EQ(parameter_layout(c).matmul_parameter_count(), matrices);
  EXPECT_EQ(parameter_layout(c).parameter_count(), layout.parameter_count() + 65 * 384);
}

TEST(InitializeParameters, MomentsKindsAndReproducibility) {
  ModelConfig config = gpt2_row();
  config.width = 128;
  config.mlp_width = 512;
  config.head_dim = 32;
  config.layers = 8;
  const ParameterLayout layout = parameter_layout(config);
  const auto fill = [&](std::uint64_t seed) {
    std::vector<float> block(static_cast<std::size_t>(layout.elements), -7.0F);
    initialize_parameters(config, layout, {}, seed, block.data());
    return block;
  };
  const std::vector<float> block = fill(42);
  EXPECT_EQ(block, fill(42));
  EXPECT_NE(block, fill(43));
  EXPECT_NE(block, fill(42 + (std::uint64_t{1} << 32)));

  for (const Parameter& parameter : layout.parameters) {
    const float* values = block.data() + parameter.offset;
    double sum = 0.0, squares = 0.0;
    for (std::int64_t i = 0; i < parameter.count(); ++i) {
      sum += values[i];
      squares += static_cast<double>(values[i]) * values[i];
    }
    const auto n = static_cast<double>(parameter.count());
    if (parameter.kind == ParameterKind::norm) {
      EXPECT_EQ(sum, n) << parameter.name;
    } else if (parameter.kind == ParameterKind::bias) {
      EXPECT_EQ(squares, 0.0) << parameter.name;
    } else {
      // Standard errors of the mean and of the variance of n normal values; six of them is one failure in 10^8 seeds.
      const double expected = parameter.kind == ParameterKind::residual_matrix ? 0.02 / 4.0 : 0.02;
      EXPECT_LT(std::abs(sum / n), 6.0 * expected / std::sqrt(n)) << parameter.name;
      EXPECT_LT(std::abs(squares / n / (expected * expected) - 1.0), 6.0 * std::sqrt(2.0 / n)) << parameter.name;
    }
  }
  const auto padding = layout.parameters[0];
  for (std::int64_t i = padding.count(); i < layout.parameters[1].offset; ++i)
    EXPECT_EQ(block[static_cast<std::size_t>(i)], 0.0F);
}

TEST(InitializeParameters, StreamsOfTensorsDiffer) {
  const ModelConfig config = llama_row();
  const ParameterLayout layout = parameter_layout(config);
  std::vector<float> block(static_cast<std::size_t>(layout.elements));
  initialize_parameters(config, layout, {}, 1, block.data());
  const auto first = [&](int index) {
    return block[static_cast<std::size_t>(layout.parameters[static_cast<std::size_t>(index)].offset)];
  };
  EXPECT_NE(first(layout.layers[0].qkv), first(layout.layers[1].qkv));
  EXPECT_NE(first(layout.layers[0].qkv), first(layout.layers[0].mlp_in));
}

}  // namespace
}  // namespace quern
