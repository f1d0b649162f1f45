// Hugging Face folders of every family, each in its own layout: the stream must have the tensors that went in, bit for bit.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "math/number_formats.hpp"
#include "model/huggingface_families.hpp"
#include "model/model_stream.hpp"
#include "support/huggingface_models.hpp"
#include "support/published_models.hpp"
#include "support/safetensors_image.hpp"
#include "support/shared_data.hpp"

namespace quern {
namespace {

using Json = nlohmann::ordered_json;

struct Case {
  std::string model;  ///< of published_models()
  std::string type;   ///< model_type that it is written as
};

ModelStream published_stream(const std::string& name, const ScratchFolder& scratch) {
  for (const PublishedModel& model : published_models()) {
    if (model.name != name) continue;
    const std::vector<std::byte> image = published_model_image(model);
    scratch.write(name + ".gguf", {reinterpret_cast<const char*>(image.data()), image.size()});
    auto stream = stream_gguf(scratch.path(name + ".gguf"));
    if (!stream) {
      ADD_FAILURE() << stream.error().message;
      return {};
    }
    return with_rope_pairing(std::move(*stream), RopePairing::halves);
  }
  ADD_FAILURE() << "no model " << name;
  return {};
}

std::string error_of(const Result<ModelStream>& stream) { return stream ? "accepted" : stream.error().message; }

class Families : public testing::TestWithParam<Case> {};

TEST_P(Families, GiveTheTensorsThatWentIn) {
  const ScratchFolder scratch, folder;
  const ModelStream source = published_stream(GetParam().model, scratch);
  write_huggingface_model(huggingface_model(source, GetParam().type), folder);
  const auto read = stream_huggingface(folder.path());
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_TRUE(check_stream(*read, "read"));
  ASSERT_EQ(read->tensors.size(), source.tensors.size());
  const bool gemma = GetParam().type.starts_with("gemma");
  for (std::size_t i = 0; i < source.tensors.size(); ++i) {
    const StreamTensor& wanted = source.tensors[i];
    const StreamTensor& found = read->tensors[i];
    ASSERT_EQ(found.name, wanted.name);
    ASSERT_EQ(found.shape, wanted.shape) << wanted.name;
    if (wanted.type == ElementType::mxfp4) {  // kept as it is
      ASSERT_EQ(found.type, ElementType::mxfp4);
      std::vector<std::byte> a(static_cast<std::size_t>(wanted.rows()) * wanted.row_bytes()), b(a.size());
      ASSERT_TRUE(wanted.read(0, wanted.rows(), a));
      ASSERT_TRUE(found.read(0, found.rows(), b));
      EXPECT_EQ(a, b) << wanted.name;
      continue;
    }
    std::vector<float> a = values_of(wanted);
    const std::vector<float> b = values_of(found);
    if (gemma && wanted.name.ends_with("norm.weight")) {
      for (float& x : a) x = (x - 1.0F) + 1.0F;  // the file holds one less
    }
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << wanted.name;
    // Any part reads as it does in the whole.
    const std::int64_t first = found.rows() / 3, count = (found.rows() + 2) / 3;
    std::vector<float> part(static_cast<std::size_t>(count * found.cols()));
    ASSERT_TRUE(read_rows_f32(found, first, count, part));
    EXPECT_EQ(std::memcmp(part.data(), b.data() + first * found.cols(), part.size() * sizeof(float)), 0) << wanted.name;
    if (found.release) found.release();
    std::vector<float> again = values_of(found);
    EXPECT_EQ(again, b) << wanted.name;
  }
}

TEST_P(Families, GiveTheConfigOfTheGguf) {
  const ScratchFolder scratch, folder;
  const ModelStream source = published_stream(GetParam().model, scratch);
  write_huggingface_model(huggingface_model(source, GetParam().type), folder);
  const auto read = stream_huggingface(folder.path());
  ASSERT_TRUE(read) << read.error().message;
  ModelConfig wanted = source.config, found = read->config;
  if (GetParam().model == "llama3") found.rope_factors_long.clear();  // written as LongRoPE with two equal lists
  EXPECT_EQ(to_json(found), to_json(wanted));
  EXPECT_EQ(read->facts.source_format, "Hugging Face folder");
}

INSTANTIATE_TEST_SUITE_P(All, Families,
                         testing::Values(Case{"llama", "llama"}, Case{"llama3", "llama"}, Case{"llama_linear_q8_0", "llama"},
                                         Case{"llama", "mistral"}, Case{"mixtral", "mixtral"}, Case{"qwen2", "qwen2"},
                                         Case{"qwen3", "qwen3"}, Case{"qwen3moe", "qwen3_moe"}, Case{"gemma2", "gemma2"},
                                         Case{"gemma3", "gemma3_text"}, Case{"phi3", "phi3"}, Case{"phi3_longrope", "phi3"},
                                         Case{"gpt2", "gpt2"}, Case{"gpt_oss", "gpt_oss"}, Case{"gpt_oss_mxfp4", "gpt_oss"}),
                         [](const auto& tested) { return tested.param.model + "_as_" + tested.param.type; });

/// A folder of one family whose parts a test may change.
class Changed : public testing::Test {
 protected:
  void start(const std::string& model, const std::string& type) {
    source_ = published_stream(model, scratch_);
    parts_ = huggingface_model(source_, type);
  }
  Result<ModelStream> read() {
    folder_ = std::make_unique<ScratchFolder>();
    write_huggingface_model(parts_, *folder_);
    return stream_huggingface(folder_->path());
  }
  std::string error_with(const std::function<void(Json&)>& change) {
    const Json before = parts_.config;
    change(parts_.config);
    const std::string error = error_of(read());
    parts_.config = before;
    return error;
  }
  void expect_says(const std::function<void(Json&)>& change, const std::string& wanted) {
    const std::string found = error_with(change);
    EXPECT_NE(found.find(wanted), std::string::npos) << "wanted: " << wanted << "\nfound: " << found;
    EXPECT_EQ(found.rfind(folder_->path("config.json") + ": ", 0), 0U) << found;
  }
  ScratchFolder scratch_;
  std::unique_ptr<ScratchFolder> folder_;
  ModelStream source_;
  HuggingFaceModel parts_;
};

TEST_F(Changed, SixteenBitTypesStayAsTheyAre) {
  start("llama", "llama");
  for (const char* const dtype : {"BF16", "F16"}) {
    HuggingFaceModel halves = parts_;
    for (ImageTensor& tensor : halves.tensors) {
      std::string data;
      for (std::size_t at = 0; at < tensor.data.size(); at += 4) {
        float x = 0;
        std::memcpy(&x, tensor.data.data() + at, 4);
        const std::uint16_t bits = dtype[0] == 'B' ? bf16_from_float(x).bits : f16_from_float(x);
        data.append(reinterpret_cast<const char*>(&bits), 2);
      }
      tensor.data = data;
      tensor.dtype = dtype;
    }
    const ScratchFolder folder;
    write_huggingface_model(halves, folder);
    const auto read = stream_huggingface(folder.path());
    ASSERT_TRUE(read) << read.error().message;
    for (std::size_t i = 0; i < read->tensors.size(); ++i) {
      EXPECT_EQ(read->tensors[i].type, dtype[0] == 'B' ? ElementType::bf16 : ElementType::f16);
      const std::vector<float> wanted = values_of(source_.tensors[i]), found = values_of(read->tensors[i]);
      for (std::size_t k = 0; k < wanted.size(); ++k) {
        const float rounded =
            dtype[0] == 'B' ? float_from_bf16(bf16_from_float(wanted[k])) : float_from_f16(f16_from_float(wanted[k]));
        ASSERT_EQ(found[k], rounded);
      }
    }
  }
}

TEST_F(Changed, PrefixesAndHarmlessTensors) {
  start("gpt2", "gpt2");
  for (ImageTensor& tensor : parts_.tensors) tensor.name = "transformer." + tensor.name;
  parts_.tensors.push_back({"transformer.h.0.attn.bias", "U8", {1, 1, 2, 2}, "1011"});
  parts_.tensors.push_back({"transformer.h.0.attn.masked_bias", "F32", {}, "1234"});
  parts_.tensors.push_back({"lm_head.weight", "F32", {1}, "1234"});
  const auto gpt2 = read();
  ASSERT_TRUE(gpt2) << gpt2.error().message;
  ASSERT_GE(gpt2->remarks.size(), 1U);
  EXPECT_NE(gpt2->remarks[0].find("lm_head.weight is left out"), std::string::npos);

  start("gemma3", "gemma3_text");
  for (ImageTensor& tensor : parts_.tensors) tensor.name = "language_model." + tensor.name;
  parts_.tensors.push_back({"vision_tower.x.weight", "F32", {1}, "1234"});
  const Json text = parts_.config;
  parts_.config = {{"model_type", "gemma3"}, {"text_config", text}, {"vision_config", Json::object()}};
  const auto gemma3 = read();
  ASSERT_TRUE(gemma3) << gemma3.error().message;
  EXPECT_EQ(to_json(gemma3->config), to_json(source_.config));
  EXPECT_NE(gemma3->remarks[0].find("1 tensors of the vision tower are left out"), std::string::npos);
  parts_.config["text_config"]["head_dim"] = "x";
  EXPECT_NE(error_of(read()).find("text_config.head_dim must be an integer"), std::string::npos);
}

TEST_F(Changed, NewFormOfRopeKeys) {
  start("gemma3", "gemma3_text");
  parts_.config.erase("rope_theta");
  parts_.config.erase("rope_scaling");
  parts_.config["rope_parameters"] = {{"full_attention", {{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1e6}}},
                                      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 12000.0}}}};
  const auto gemma3 = read();
  ASSERT_TRUE(gemma3) << gemma3.error().message;
  ModelConfig wanted = source_.config;
  wanted.rope_base_windowed = 12000.0F;
  EXPECT_EQ(to_json(gemma3->config), to_json(wanted));
  expect_says([](Json& j) { j["rope_parameters"]["sliding_attention"]["rope_type"] = "linear"; },
              "rope_parameters.sliding_attention.rope_type is \"linear\"");

  start("llama", "llama");
  parts_.config.erase("rope_theta");
  parts_.config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 50000.0}};
  const auto llama = read();
  ASSERT_TRUE(llama) << llama.error().message;
  EXPECT_EQ(to_json(llama->config), to_json(source_.config));
}

TEST_F(Changed, Llama3Scaling) {
  start("llama", "llama");
  parts_.config["rope_theta"] = 500000.0;
  parts_.config["rope_scaling"] = {{"rope_type", "llama3"},
                                   {"factor", 8.0},
                                   {"low_freq_factor", 1.0},
                                   {"high_freq_factor", 4.0},
                                   {"original_max_position_embeddings", 8192}};
  const auto read_back = read();
  ASSERT_TRUE(read_back) << read_back.error().message;
  const ModelConfig& c = read_back->config;
  ASSERT_EQ(c.rope_scaling, RopeScaling::factors);
  ASSERT_EQ(std::ssize(c.rope_factors), c.head_dim / 2);
  for (std::int64_t i = 0; i < c.head_dim / 2; ++i) {
    // Llama 3's published rule, by frequencies.
    const double frequency = std::pow(500000.0, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim));
    const double length = 2.0 * std::acos(-1.0) / frequency;
    double scaled = frequency;
    if (length > 8192.0) {
      scaled = frequency / 8.0;
    } else if (length >= 8192.0 / 4.0) {
      const double smooth = (8192.0 / length - 1.0) / 3.0;
      scaled = (1.0 - smooth) * frequency / 8.0 + smooth * frequency;
    }
    EXPECT_NEAR(c.rope_factors[static_cast<std::size_t>(i)], frequency / scaled, 1e-5) << i;
  }
  EXPECT_EQ(c.rope_factors.back(), 8.0F);
  EXPECT_EQ(c.rope_factors.front(), 1.0F);
}

TEST_F(Changed, YarnOfGptOss) {
  start("gpt_oss", "gpt_oss");
  parts_.config["rope_scaling"]["truncate"] = false;
  parts_.config["rope_scaling"]["attention_factor"] = 1.5;
  const auto read_back = read();
  ASSERT_TRUE(read_back) << read_back.error().message;
  EXPECT_NEAR(read_back->config.rope_magnitude, 1.5 / (1.0 + 0.1 * std::log(8.0)), 1e-6);
  ASSERT_FALSE(read_back->remarks.empty());
  EXPECT_NE(read_back->remarks[0].find("rope_scaling.truncate false"), std::string::npos);
  expect_says([](Json& j) { j["rope_scaling"] = nullptr; }, "rope_scaling (or rope_parameters) is missing");
  expect_says([](Json& j) { j["swiglu_limit"] = 5.0; }, "swiglu_limit is 5.0, which is not supported");
  expect_says([](Json& j) { j["rope_scaling"]["mscale"] = 1.0; }, "rope_scaling.mscale is 1.0, which is not supported");
}

TEST_F(Changed, Windows) {
  start("llama", "mistral");
  parts_.config["sliding_window"] = 32;
  const auto mistral = read();
  ASSERT_TRUE(mistral) << mistral.error().message;
  EXPECT_EQ(mistral->config.window, 0);
  EXPECT_NE(mistral->remarks[0].find("sliding_window 32 is not applied"), std::string::npos);

  start("qwen2", "qwen2");
  parts_.config["sliding_window"] = 32;
  EXPECT_EQ(read()->config.window, 0);  // without use_sliding_window
  parts_.config["use_sliding_window"] = true;
  parts_.config["max_window_layers"] = 0;
  auto qwen2 = read();
  ASSERT_TRUE(qwen2) << qwen2.error().message;
  EXPECT_EQ(qwen2->config.window, 32);
  EXPECT_EQ(qwen2->config.window_period, 1);
  parts_.config["layer_types"] = {"sliding_attention", "sliding_attention", "full_attention"};
  qwen2 = read();
  ASSERT_TRUE(qwen2) << qwen2.error().message;
  EXPECT_EQ(qwen2->config.window_period, 3);
  expect_says(
      [](Json& j) {
        j["layer_types"] = {"full_attention", "sliding_attention", "sliding_attention"};
      },
      "layer_types: windowed layers that follow no period");
  expect_says([](Json& j) { j["layer_types"] = {"full_attention"}; }, "layer_types must hold one word for each of 3 layers");
  expect_says([](Json& j) { j["layer_types"] = {"a", "b", "c"}; }, "layer_types holds \"a\"");

  start("gemma3", "gemma3_text");
  parts_.config["sliding_window_pattern"] = 3;
  EXPECT_EQ(read()->config.window_period, 3);
  expect_says([](Json& j) { j["use_bidirectional_attention"] = true; }, "use_bidirectional_attention is true");
}

TEST_F(Changed, WhatIsNotSupportedIsNamed) {
  start("llama", "llama");
  const auto set = [](const char* key, Json value) { return [key, value](Json& j) { j[key] = value; }; };
  expect_says(set("model_type", "bert"), "model_type must be one of llama, mistral,");
  expect_says([](Json& j) { j.erase("model_type"); }, "found none");
  expect_says(set("model_type", 7), "model_type must be a string, found 7");
  expect_says([](Json& j) { j.erase("hidden_size"); }, "hidden_size must be an integer from 1 to 16777216, found none");
  expect_says(set("hidden_size", nullptr), "hidden_size must be an integer");
  expect_says(set("hidden_size", -64), "found -64");
  expect_says(set("hidden_size", 18446744073709551615ULL), "found 18446744073709551615");
  expect_says(set("num_hidden_layers", 1e9), "num_hidden_layers must be an integer");
  expect_says(set("num_key_value_heads", 3), "num_key_value_heads must divide num_attention_heads (4), found 3");
  expect_says(set("rms_norm_eps", "tiny"), "rms_norm_eps must be a number");
  expect_says(set("rms_norm_eps", -1.0), "norm_eps must be positive");
  expect_says(set("hidden_act", "relu"), "hidden_act is \"relu\", which is not supported");
  expect_says(set("attention_bias", 1), "attention_bias must be true or false");
  expect_says(set("partial_rotary_factor", 2.0), "partial_rotary_factor must be above 0 and at most 1");
  expect_says(set("rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}), "rope_scaling.type is \"dynamic\"");
  expect_says(set("rope_scaling", {{"type", "linear"}, {"factor", 0.0}}), "rope_factor must be positive");
  expect_says(set("rope_scaling", {{"type", "linear"}, {"factory", 2.0}}), "rope_scaling.factory is not known");
  expect_says(set("rope_scaling", "linear"), "rope_scaling must be an object");
  expect_says(set("rope_scaling", {{"rope_type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {1.0}}}),
              "rope_scaling.short_factor must hold 8 numbers");
  expect_says(set("rope_scaling", {{"rope_type", "longrope"}, {"short_factor", {"x"}}}), "short_factor must hold numbers");
  expect_says(set("rope_scaling", {{"rope_type", "llama3"},
                                   {"factor", 8.0},
                                   {"low_freq_factor", 4.0},
                                   {"high_freq_factor", 1.0},
                                   {"original_max_position_embeddings", 8192}}),
              "rope_scaling.high_freq_factor must be above");
  expect_says(set("quantization_config", {{"quant_method", "gptq"}}), "quantization_config.quant_method is \"gptq\"");
  expect_says(set("quantization_config", {{"quant_method", "mxfp4"}}), "quantization_config.quant_method is \"mxfp4\"");
  expect_says(set("n_shared_experts", 1), "n_shared_experts is 1, which is not supported");

  start("qwen3moe", "qwen3_moe");
  expect_says(set("norm_topk_prob", false), "norm_topk_prob must be true");
  expect_says([](Json& j) { j.erase("norm_topk_prob"); }, "norm_topk_prob must be true");
  expect_says(set("decoder_sparse_step", 2), "decoder_sparse_step is 2");
  expect_says(set("mlp_only_layers", {0}), "mlp_only_layers is an array");
  expect_says(set("num_experts_per_tok", 9), "num_experts_per_tok must be an integer from 1 to 5, found 9");

  start("gpt2", "gpt2");
  expect_says(set("scale_attn_by_inverse_layer_idx", true), "scale_attn_by_inverse_layer_idx is true");
  expect_says(set("activation_function", "relu"), "activation_function is \"relu\"");
}

TEST_F(Changed, TensorsThatAreWrongAreNamed) {
  start("llama", "llama");
  const auto with = [&](const std::function<void(std::vector<ImageTensor>&)>& change) {
    const auto before = parts_.tensors;
    change(parts_.tensors);
    std::string error = error_of(read());
    parts_.tensors = before;
    return error;
  };
  const auto find = [](std::vector<ImageTensor>& list, const std::string& name) {
    return std::find_if(list.begin(), list.end(), [&](const ImageTensor& t) { return t.name == name; });
  };
  const std::string gone = "model.layers.1.mlp.up_proj.weight";
  EXPECT_NE(with([&](auto& l) { l.erase(find(l, gone)); }).find("tensor " + gone + " is missing"), std::string::npos);
  EXPECT_NE(with([&](auto& l) { l.erase(find(l, "lm_head.weight")); }).find("tensor lm_head.weight is missing"),
            std::string::npos);
  EXPECT_NE(with([&](auto& l) { l.clear(); }).find("tensor model.embed_tokens.weight is missing"), std::string::npos);
  EXPECT_NE(with([&](auto& l) {
              std::swap(find(l, gone)->shape[0], find(l, gone)->shape[1]);
            }).find("tensor " + gone + " must have the shape [96, 64], found [64, 96]"),
            std::string::npos);
  EXPECT_NE(with([&](auto& l) {
              l.push_back({"model.layers.0.extra", "F32", {1}, "1234"});
            }).find("tensor model.layers.0.extra is not known"),
            std::string::npos);
  EXPECT_NE(with([&](auto& l) {
              l.push_back({"model.layers.0.self_attn.q_proj.bias", "F32", {1}, "1234"});
            }).find("tensor model.layers.0.self_attn.q_proj.bias is not known"),
            std::string::npos);
  EXPECT_NE(with([&](auto& l) {
              find(l, "model.norm.weight")->dtype = "F64";
              find(l, "model.norm.weight")->data += find(l, "model.norm.weight")->data;
            }).find("tensor model.norm.weight must have dtype F32, F16 or BF16, found F64"),
            std::string::npos);
  EXPECT_EQ(with([&](auto& l) {
              l.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {1}, "1234"});
            }),
            "accepted");
  start("mixtral", "mixtral");
  EXPECT_NE(with([&](auto& l) {
              auto at = find(l, "model.layers.0.block_sparse_moe.experts.2.w3.weight");
              at->dtype = "BF16";
              at->data.resize(at->data.size() / 2);
            }).find("must have the dtype of the other experts, F32, found BF16"),
            std::string::npos);
  start("gpt_oss_mxfp4", "gpt_oss");
  EXPECT_NE(with([&](auto& l) {
              l.erase(find(l, "model.layers.0.mlp.experts.down_proj_scales"));
            }).find("tensor model.layers.0.mlp.experts.down_proj_scales is missing"),
            std::string::npos);
}

TEST_F(Changed, ConfigsThatAreNone) {
  start("llama", "llama");
  ASSERT_TRUE(read());
  const auto with = [&](const std::string& text) {
    folder_->write("config.json", text);
    return error_of(stream_huggingface(folder_->path()));
  };
  EXPECT_NE(with("").find("malformed"), std::string::npos);
  EXPECT_NE(with("[]").find("expected a JSON object, found an array"), std::string::npos);
  EXPECT_NE(with(R"({"model_type":"llama","model_type":"gpt2"})").find("key \"model_type\" is there twice"),
            std::string::npos);
  std::filesystem::remove(folder_->path("config.json"));
  EXPECT_NE(error_of(stream_huggingface(folder_->path())).find("config.json: no such file"), std::string::npos);
  EXPECT_NE(error_of(stream_huggingface(folder_->path("none"))).find("no such file"), std::string::npos);
}

TEST_F(Changed, ChatTemplates) {
  start("llama", "llama");
  ASSERT_TRUE(read());
  folder_->write("tokenizer_config.json",
                 R"({"chat_template":[{"name":"default","template":"D"},{"name":"tool_use","template":"T"}]})");
  auto stream = stream_huggingface(folder_->path());
  ASSERT_TRUE(stream) << stream.error().message;
  EXPECT_EQ(stream->facts.chat_template, "D");
  ASSERT_EQ(stream->facts.named_chat_templates.size(), 1U);
  EXPECT_EQ(stream->facts.named_chat_templates[0].second, "T");
  folder_->write("chat_template.jinja", "J");
  stream = stream_huggingface(folder_->path());
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->facts.chat_template, "J");
  folder_->write("tokenizer_config.json", R"({"chat_template":7})");
  EXPECT_NE(error_of(stream_huggingface(folder_->path())).find("chat_template must be a string or a list"),
            std::string::npos);
}

/// The folders in the shared test data hold the weights of the GGUF files beside them.
TEST(SharedHuggingFace, FoldersHoldTheWeightsOfTheirGguf) {
  for (const std::string name : {"llama", "gpt2", "qwen3", "gpt-oss"}) {
    const auto folder = shared_data("testdata/hf/tiny-" + name);
    const auto gguf = shared_data("testdata/tiny/tiny-" + name + ".gguf");
    if (!folder || !gguf) GTEST_SKIP() << "shared data absent: testdata/hf/tiny-" << name;
    const auto read = stream_huggingface(folder->string());
    ASSERT_TRUE(read) << read.error().message;
    auto opened = stream_gguf(gguf->string());
    ASSERT_TRUE(opened) << opened.error().message;
    const ModelStream wanted = with_rope_pairing(std::move(*opened), RopePairing::halves);
    EXPECT_TRUE(read->tokenizer);
    EXPECT_EQ(to_json(read->config), to_json(wanted.config)) << name;
    for (const StreamTensor& tensor : wanted.tensors) {
      const StreamTensor* found = read->find(tensor.name);
      ASSERT_NE(found, nullptr) << tensor.name;
      const std::vector<float> a = values_of(tensor), b = values_of(*found);
      ASSERT_EQ(a.size(), b.size());
      if (found->type != ElementType::mxfp4) {
        EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << name << " " << tensor.name;
        continue;
      }
      double error = 0.0, size = 0.0;  // the experts are rounded to MXFP4: about a tenth of their size
      for (std::size_t i = 0; i < a.size(); ++i) {
        error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
        size += std::pow(static_cast<double>(a[i]), 2);
      }
      EXPECT_LT(std::sqrt(error / size), 0.2) << tensor.name;
      EXPECT_GT(error, 0.0);
    }
  }
}

}  // namespace
}  // namespace quern
