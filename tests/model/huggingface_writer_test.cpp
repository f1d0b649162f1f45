// Hugging Face folders that are written: read again they are the same model, bit for bit, and config.json says what the
// published classes read.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "math/number_formats.hpp"
#include "model/huggingface_families.hpp"
#include "model/huggingface_writer.hpp"
#include "model/model_stream.hpp"
#include "model/safetensors.hpp"
#include "support/huggingface_models.hpp"
#include "support/published_models.hpp"
#include "support/safetensors_image.hpp"

namespace quern {
namespace {

using Json = nlohmann::ordered_json;

Json config_of(const std::string& folder) {
  std::ifstream file(folder + "/config.json");
  return Json::parse(file, nullptr, false);
}

ModelStream published_stream(const std::string& name, const ScratchFolder& scratch) {
  for (const PublishedModel& model : published_models()) {
    if (model.name != name) continue;
    const std::vector<std::byte> image = published_model_image(model);
    scratch.write(name + ".gguf", {reinterpret_cast<const char*>(image.data()), image.size()});
    auto stream = stream_gguf(scratch.path(name + ".gguf"));
    if (stream) return std::move(*stream);
    ADD_FAILURE() << stream.error().message;
  }
  return {};
}

/// A model of any config with random f32 weights.
ModelStream random_stream(const ModelConfig& config) {
  ModelStream stream;
  stream.config = config;
  std::mt19937 random(11);
  for (const StreamTensorSpec& spec : stream_tensors(config)) {
    StreamTensor tensor;
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    tensor.origin = "made: tensor " + spec.name;
    std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
    std::normal_distribution<float> draw(0.0F, 1.0F);
    for (float& value : values) value = draw(random);
    tensor.read = [values = std::move(values), cols = tensor.cols()](std::int64_t first, std::int64_t,
                                                                     std::span<std::byte> out) -> Result<void> {
      std::memcpy(out.data(), values.data() + first * cols, out.size());
      return {};
    };
    stream.tensors.push_back(std::move(tensor));
  }
  return stream;
}

void expect_same(const ModelStream& wanted, const ModelStream& found) {
  EXPECT_EQ(to_json(found.config), to_json(wanted.config));
  ASSERT_EQ(found.tensors.size(), wanted.tensors.size());
  for (std::size_t i = 0; i < wanted.tensors.size(); ++i) {
    ASSERT_EQ(found.tensors[i].name, wanted.tensors[i].name);
    ASSERT_EQ(found.tensors[i].shape, wanted.tensors[i].shape) << wanted.tensors[i].name;
    std::vector<float> a = values_of(wanted.tensors[i]);
    const std::vector<float> b = values_of(found.tensors[i]);
    if (wanted.config.post_norms && wanted.tensors[i].name.ends_with("norm.weight")) {
      for (float& x : a) x = (x - 1.0F) + 1.0F;  // as Gemma's files hold them
    }
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << wanted.tensors[i].name;
  }
}

StreamWriteOptions of_type(ElementType type) {
  StreamWriteOptions options;
  options.type = type;
  return options;
}

ModelConfig small() {
  ModelConfig c;
  c.vocab = 23;
  c.context = 16;
  c.layers = 3;
  c.width = 16;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.mlp_width = 24;
  return c;
}

ModelConfig small_gpt2() {
  ModelConfig c = small();
  c.kv_heads = 4;
  c.norm = NormKind::layer_norm;
  c.position = PositionKind::learned;
  c.mlp = MlpKind::gelu;
  return c;
}

struct Published {
  std::string model, class_name;
};
class PublishedFamilies : public testing::TestWithParam<Published> {};

TEST_P(PublishedFamilies, ComeBackBitForBit) {
  const ScratchFolder scratch;
  const ModelStream source = published_stream(GetParam().model, scratch);
  const auto plan = plan_huggingface(source, {});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->architecture, GetParam().class_name);
  const auto written = write_huggingface(source, scratch.path("out"), {});
  ASSERT_TRUE(written) << written.error().message;
  EXPECT_EQ(config_of(scratch.path("out"))["architectures"][0], GetParam().class_name);
  const auto read = stream_huggingface(scratch.path("out"));
  ASSERT_TRUE(read) << read.error().message;
  expect_same(source, *read);
  // The plan says what is there.
  const auto files = SafetensorsFolder::open(scratch.path("out"));
  ASSERT_TRUE(files) << files.error().message;
  ASSERT_EQ(files->files()[0]->tensors().size(), plan->tensors.size());
  for (const PlannedTensor& planned : plan->tensors) {
    const auto entry = files->find(planned.name);
    ASSERT_NE(entry.tensor, nullptr) << planned.name;
    EXPECT_EQ(entry.tensor->shape, planned.shape) << planned.name;
    EXPECT_EQ(entry.tensor->dtype, planned.type) << planned.name;
    EXPECT_EQ(entry.tensor->data.size(), planned.bytes) << planned.name;
  }
}

TEST_P(PublishedFamilies, AreLaidOutAsPublished) {
  const ScratchFolder scratch;
  ModelStream source = published_stream(GetParam().model, scratch);
  ASSERT_TRUE(write_huggingface(source, scratch.path("out"), {}));
  const Json config = config_of(scratch.path("out"));
  const ModelStream halves = with_rope_pairing(source, RopePairing::halves);
  const HuggingFaceModel wanted = huggingface_model(halves, config["model_type"].get<std::string>());
  const auto files = SafetensorsFolder::open(scratch.path("out"));
  ASSERT_TRUE(files);
  EXPECT_EQ(files->files()[0]->tensors().size(), wanted.tensors.size());
  const std::string prefix = config["model_type"] == "gpt2" ? "transformer." : "";
  for (const ImageTensor& tensor : wanted.tensors) {
    const std::string name = tensor.name == "lm_head.weight" ? tensor.name : prefix + tensor.name;
    const auto entry = files->find(name);
    ASSERT_NE(entry.tensor, nullptr) << name;
    EXPECT_EQ(entry.tensor->dtype, tensor.dtype);
    EXPECT_EQ(entry.tensor->shape, tensor.shape) << name;
    const std::string_view data(reinterpret_cast<const char*>(entry.tensor->data.data()), entry.tensor->data.size());
    EXPECT_TRUE(data == tensor.data) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, PublishedFamilies,
    testing::Values(Published{"llama", "LlamaForCausalLM"}, Published{"llama3", "LlamaForCausalLM"},
                    Published{"llama_linear_q8_0", "LlamaForCausalLM"}, Published{"mixtral", "MixtralForCausalLM"},
                    Published{"qwen2", "Qwen2ForCausalLM"}, Published{"qwen3", "Qwen3ForCausalLM"},
                    Published{"qwen3moe", "Qwen3MoeForCausalLM"}, Published{"gemma2", "Gemma2ForCausalLM"},
                    Published{"gemma3", "Gemma3ForCausalLM"}, Published{"phi3", "LlamaForCausalLM"},
                    Published{"phi3_longrope", "Phi3ForCausalLM"}, Published{"gpt2", "GPT2LMHeadModel"},
                    Published{"gpt_oss", "GptOssForCausalLM"}, Published{"gpt_oss_mxfp4", "GptOssForCausalLM"}),
    [](const auto& tested) { return tested.param.model; });

TEST(HuggingFaceWriter, OwnModelsComeBackBitForBit) {
  struct Own {
    const char* name;
    ModelConfig config;
    const char* class_name;
  };
  std::vector<Own> all;
  const auto add = [&](const char* name, ModelConfig config, const char* class_name, auto change) {
    change(config);
    all.push_back({name, config, class_name});
  };
  add("llama", small(), "LlamaForCausalLM", [](ModelConfig&) {});
  add("adjacent", small(), "LlamaForCausalLM", [](ModelConfig& c) { c.rope_pairing = RopePairing::adjacent; });
  add("biases", small(), "LlamaForCausalLM", [](ModelConfig& c) {
    c.attention_bias = c.mlp_bias = true;
    c.tied_embeddings = false;
  });
  add("geglu", small(), "LlamaForCausalLM", [](ModelConfig& c) { c.mlp = MlpKind::geglu; });
  add("wide head", small(), "LlamaForCausalLM", [](ModelConfig& c) { c.head_dim = 8; });
  add("odd width", small(), "MistralForCausalLM", [](ModelConfig& c) { c.width = 18; });
  add("part", small(), "Phi3ForCausalLM", [](ModelConfig& c) { c.rope_dims = 2; });
  add("window", small(), "MistralForCausalLM", [](ModelConfig& c) { c.window = 5; });
  add("windows", small(), "Qwen2ForCausalLM", [](ModelConfig& c) {
    c.window = 5;
    c.window_period = 3;
  });
  add("qkv bias", small(), "Qwen2ForCausalLM", [](ModelConfig& c) { c.qkv_bias = true; });
  add("qk norm", small(), "Qwen3ForCausalLM", [](ModelConfig& c) {
    c.qk_norm = true;
    c.rope_pairing = RopePairing::adjacent;
  });
  add("qk norm, windows", small(), "Qwen3ForCausalLM", [](ModelConfig& c) {
    c.qk_norm = true;
    c.window = 7;
    c.window_period = 2;
  });
  add("qk norm, qkv bias", small(), "Qwen3ForCausalLM", [](ModelConfig& c) { c.qk_norm = c.qkv_bias = true; });
  add("gpt2", small_gpt2(), "GPT2LMHeadModel", [](ModelConfig& c) { c.attention_bias = c.mlp_bias = c.norm_bias = true; });
  add("gpt2 without biases", small_gpt2(), "GPT2LMHeadModel", [](ModelConfig&) {});
  add("gpt2 with some", small_gpt2(), "GPT2LMHeadModel", [](ModelConfig& c) {
    c.qkv_bias = true;
    c.mlp = MlpKind::relu2;
    c.tied_embeddings = false;
  });
  add("gpt2 erf", small_gpt2(), "GPT2LMHeadModel", [](ModelConfig& c) { c.mlp = MlpKind::gelu_erf; });
  for (const Own& own : all) {
    SCOPED_TRACE(own.name);
    ASSERT_TRUE(validate(own.config));
    const ScratchFolder scratch;
    const ModelStream source = random_stream(own.config);
    const auto written = write_huggingface(source, scratch.path("out"), {});
    ASSERT_TRUE(written) << written.error().message;
    EXPECT_EQ(config_of(scratch.path("out"))["architectures"][0], own.class_name);
    const auto read = stream_huggingface(scratch.path("out"));
    ASSERT_TRUE(read) << read.error().message;
    expect_same(source, *read);
  }
}

TEST(HuggingFaceWriter, RefusesWhatNoClassHasAndNamesIt) {
  const auto error = [](const ModelConfig& config) {
    const auto plan = plan_huggingface(random_stream(config), {});
    return plan ? "accepted" : plan.error().message;
  };
  const auto with = [&](ModelConfig config, auto change) {
    change(config);
    return error(config);
  };
  const auto expect_field = [](const std::string& found, const std::string& field) {
    EXPECT_NE(found.find("does not have " + field), std::string::npos) << found;
  };
  expect_field(with(small(), [](ModelConfig& c) { c.final_soft_cap = 30.0F; }), "final_soft_cap 30");
  expect_field(with(small(), [](ModelConfig& c) { c.attention_soft_cap = 50.0F; }), "attention_soft_cap 50");
  expect_field(with(small(), [](ModelConfig& c) { c.embedding_scale = 4.0F; }), "embedding_scale 4");
  expect_field(with(small(), [](ModelConfig& c) { c.attention_scale = 0.3F; }), "attention_scale 0.3");
  expect_field(with(small(), [](ModelConfig& c) { c.position = PositionKind::none; }), "position none");
  expect_field(with(small(), [](ModelConfig& c) { c.mlp = MlpKind::relu2; }), "mlp relu2");
  expect_field(with(small(), [](ModelConfig& c) { c.rope_magnitude = 2.0F; }), "rope_magnitude 2");
  expect_field(with(small(),
                    [](ModelConfig& c) {
                      c.window = 4;
                      c.rope_base_windowed = 100.0F;
                    }),
               "rope_base_windowed 100");
  expect_field(with(small_gpt2(), [](ModelConfig& c) { c.kv_heads = 2; }), "kv_heads 2");
  expect_field(with(small_gpt2(), [](ModelConfig& c) { c.head_dim = 8; }), "head_dim 8");
  expect_field(with(small_gpt2(), [](ModelConfig& c) { c.position = PositionKind::rope; }), "position rope");
  expect_field(with(small_gpt2(), [](ModelConfig& c) { c.window = 4; }), "window 4");
}

TEST(HuggingFaceWriter, TypesOfMatrices) {
  const ScratchFolder scratch;
  const ModelStream source = random_stream(small());
  for (const ElementType type : {ElementType::bf16, ElementType::f16}) {
    const bool bf16 = type == ElementType::bf16;
    const std::string out = scratch.path(bf16 ? "bf16" : "f16");
    const StreamWriteOptions options = of_type(type);
    ASSERT_TRUE(write_huggingface(source, out, options));
    EXPECT_EQ(config_of(out)["torch_dtype"], bf16 ? "bfloat16" : "float16");
    const auto plan = plan_huggingface(source, options);
    ASSERT_TRUE(plan);
    EXPECT_NE(plan->remarks[0].find(bf16 ? "rounded to BF16" : "rounded to F16"), std::string::npos) << plan->remarks[0];
    const auto read = stream_huggingface(out);
    ASSERT_TRUE(read) << read.error().message;
    for (std::size_t i = 0; i < source.tensors.size(); ++i) {
      const bool matrix = source.tensors[i].shape.size() > 1;
      ASSERT_EQ(read->tensors[i].type, matrix ? type : ElementType::f32) << source.tensors[i].name;
      const std::vector<float> wanted = values_of(source.tensors[i]), found = values_of(read->tensors[i]);
      for (std::size_t k = 0; k < wanted.size(); ++k) {
        const float rounded = bf16 ? float_from_bf16(bf16_from_float(wanted[k])) : float_from_f16(f16_from_float(wanted[k]));
        ASSERT_EQ(found[k], matrix ? rounded : wanted[k]);
      }
    }
  }
  const auto q8_0 = plan_huggingface(source, of_type(ElementType::q8_0));
  ASSERT_FALSE(q8_0);
  EXPECT_NE(q8_0.error().message.find("the type Q8_0 cannot be written"), std::string::npos);
}

TEST(HuggingFaceWriter, AValueBeyondF16IsAnErrorAndLeavesNothing) {
  const ScratchFolder scratch;
  ModelStream source = random_stream(small());
  source.tensors[0].read = [](std::int64_t, std::int64_t, std::span<std::byte> out) -> Result<void> {
    const float large = 70000.0F;
    for (std::size_t at = 0; at < out.size(); at += 4) std::memcpy(out.data() + at, &large, 4);
    return {};
  };
  const auto written = write_huggingface(source, scratch.path("out"), of_type(ElementType::f16));
  ASSERT_FALSE(written);
  EXPECT_NE(written.error().message.find("made: tensor token_embd.weight: the value 70000 is too large for f16"),
            std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(HuggingFaceWriter, SaysWhatItDecodesAndFills) {
  const ScratchFolder scratch;
  const auto quantized = plan_huggingface(published_stream("llama_linear_q8_0", scratch), {});
  ASSERT_TRUE(quantized);
  EXPECT_NE(quantized->remarks[0].find("quantized tensors are decoded to F32"), std::string::npos) << quantized->remarks[0];
  const auto filled = plan_huggingface(random_stream(small_gpt2()), {});
  ASSERT_TRUE(filled);
  // c_attn's three, c_proj's, two of the feed-forward part and two of norms in each layer, and the final norm's.
  EXPECT_NE(filled->remarks[0].find("25 bias tensors that GPT2LMHeadModel demands"), std::string::npos)
      << filled->remarks[0];
  const auto kept = plan_huggingface(published_stream("gpt_oss_mxfp4", scratch), {});
  ASSERT_TRUE(kept);
  EXPECT_NE(kept->remarks[0].find("14 quantized tensors are decoded to F32"), std::string::npos) << kept->remarks[0];
  const auto decoded = plan_huggingface(published_stream("gpt_oss_mxfp4", scratch), of_type(ElementType::bf16));
  ASSERT_TRUE(decoded);
  EXPECT_NE(decoded->remarks[0].find("23 quantized tensors are decoded to BF16"), std::string::npos) << decoded->remarks[0];
}

TEST(HuggingFaceWriter, CutsShards) {
  const ScratchFolder scratch;
  const ModelStream source = random_stream(small());
  std::size_t last = 0, all = 0;
  StreamWriteOptions options;
  options.progress = [&](std::size_t done, std::size_t total) -> Result<void> {
    EXPECT_GT(done, last);
    last = done;
    all = total;
    return {};
  };
  ASSERT_TRUE(internal::write_huggingface_shards(source, scratch.path("out"), options, 4000));
  EXPECT_EQ(last, all);
  const auto files = SafetensorsFolder::open(scratch.path("out"));
  ASSERT_TRUE(files) << files.error().message;
  EXPECT_GT(files->files().size(), 3U);
  std::ifstream index_file(scratch.path("out/model.safetensors.index.json"));
  const Json index = Json::parse(index_file);
  EXPECT_EQ(index["metadata"]["total_size"], all);
  const auto count = files->files().size();
  for (const auto& file : files->files()) {
    std::size_t bytes = 0;
    for (const SafetensorsTensor& tensor : file->tensors()) bytes += tensor.data.size();
    EXPECT_TRUE(bytes <= 4000 || file->tensors().size() == 1);
    EXPECT_NE(file->name().find("-of-0000" + std::to_string(count) + ".safetensors"), std::string::npos) << file->name();
  }
  const auto read = stream_huggingface(scratch.path("out"));
  ASSERT_TRUE(read) << read.error().message;
  expect_same(source, *read);
}

TEST(HuggingFaceWriter, WritesOverNothingAndLeavesNothingHalfDone) {
  const ScratchFolder scratch;
  const ModelStream source = random_stream(small());
  scratch.write("full/notes.txt", "mine");
  const auto refused = write_huggingface(source, scratch.path("full"), {});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("the folder is not empty"), std::string::npos);
  EXPECT_FALSE(write_huggingface(source, scratch.path("full/notes.txt"), {}));
  EXPECT_FALSE(write_huggingface(source, scratch.path("none/out"), {}));

  std::filesystem::create_directories(scratch.path("empty"));
  StreamWriteOptions interrupted;
  interrupted.progress = [](std::size_t done, std::size_t) -> Result<void> {
    if (done < 5000) return {};
    return bad_input("interrupted");
  };
  const auto stopped = write_huggingface(source, scratch.path("empty"), interrupted);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().message, "interrupted");
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path("empty")));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.path()), std::filesystem::directory_iterator()), 2);
  ASSERT_TRUE(write_huggingface(source, scratch.path("empty") + "/", {}));  // an empty folder may be there
  EXPECT_TRUE(stream_huggingface(scratch.path("empty")));
}

TEST(HuggingFaceWriter, TheExactModelCountsOnlyWhereTheRestAgrees) {
  const ScratchFolder scratch;
  ModelConfig config = small_gpt2();
  const ModelStream source = random_stream(config);
  ASSERT_TRUE(write_huggingface(source, scratch.path("out"), {}));
  Json json = config_of(scratch.path("out"));
  ASSERT_TRUE(json.contains("quern"));
  const auto with = [&](const Json& changed) {
    scratch.write("out/config.json", changed.dump());
    return stream_huggingface(scratch.path("out"));
  };
  Json changed = json;
  changed["layer_norm_epsilon"] = 1e-3;
  auto read = with(changed);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_TRUE(read->config.norm_bias);  // the class's
  EXPECT_NE(read->remarks[0].find("the object quern is not used: the other keys have changed"), std::string::npos);
  changed = json;
  changed["quern"] = 7;
  read = with(changed);
  ASSERT_TRUE(read);
  EXPECT_NE(read->remarks[0].find("it has no object model"), std::string::npos);
  changed["quern"] = {{"model", {{"vocab", -1}}}};
  read = with(changed);
  ASSERT_TRUE(read);
  EXPECT_NE(read->remarks[0].find("the object quern is not used: model JSON"), std::string::npos);

  // Trained on elsewhere: a bias that was zero has a value now.
  read = with(json);
  ASSERT_TRUE(read);
  EXPECT_FALSE(read->config.norm_bias);
  const std::string weights = scratch.path("out/model.safetensors");
  std::ostringstream bytes;
  bytes << std::ifstream(weights, std::ios::binary).rdbuf();
  std::string image = bytes.str();
  const auto file = SafetensorsFile::parse(std::as_bytes(std::span(image)), "image");
  ASSERT_TRUE(file);
  const float value = 0.5F;
  const auto* at = reinterpret_cast<const char*>(file->find("transformer.h.1.ln_1.bias")->data.data());
  std::memcpy(image.data() + (at - image.data()), &value, 4);
  scratch.write("out/model.safetensors", image);
  read = stream_huggingface(scratch.path("out"));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_TRUE(read->config.norm_bias);
  EXPECT_NE(read->remarks[0].find("biases that its model lacks are not zero"), std::string::npos);
}

TEST(HuggingFaceWriter, Llama3ScalingIsWrittenByItsName) {
  const ScratchFolder scratch;
  ModelConfig config = small();
  config.head_dim = 128;
  config.rope_base = 500000.0F;
  config.rope_scaling = RopeScaling::factors;
  config.rope_factors = internal::llama3_rope_factors({.factor = 32.0}, 500000.0, 128);
  ASSERT_TRUE(write_huggingface(random_stream(config), scratch.path("out"), {}));
  const Json scaling = config_of(scratch.path("out"))["rope_scaling"];
  EXPECT_EQ(scaling["rope_type"], "llama3");
  EXPECT_EQ(scaling["factor"], 32.0);
  EXPECT_EQ(scaling["original_max_position_embeddings"], 8192);
}

/// Types of keys as the configuration classes of transformers check them.
TEST(HuggingFaceWriter, ConfigKeysHaveTheTypesThatTheClassesCheck) {
  const ScratchFolder scratch;
  for (const PublishedModel& model : published_models()) {
    SCOPED_TRACE(model.name);
    const ModelStream source = published_stream(model.name, scratch);
    const std::string out = scratch.path("out-" + model.name);
    ASSERT_TRUE(write_huggingface(source, out, {}));
    const Json json = config_of(out);
    for (const char* const key : {"rope_theta", "rms_norm_eps", "rope_local_base_freq", "layer_norm_epsilon",
                                  "partial_rotary_factor", "final_logit_softcapping", "attn_logit_softcapping"}) {
      EXPECT_TRUE(!json.contains(key) || json[key].is_null() || json[key].is_number_float()) << key;
    }
    for (const char* const key :
         {"hidden_size", "head_dim", "query_pre_attn_scalar", "sliding_window", "num_local_experts"}) {
      EXPECT_TRUE(!json.contains(key) || json[key].is_null() || json[key].is_number_integer()) << key;
    }
    const auto type = json["model_type"].get<std::string>();
    EXPECT_EQ(json.contains("layer_types"),
              type == "qwen2" || type == "qwen3" || type.starts_with("gemma") || type == "gpt_oss");
    if (type == "phi3" && !json["rope_scaling"].is_null()) {  // three keys, and `type`, in older versions
      EXPECT_TRUE(json["rope_scaling"].contains("type"));
      EXPECT_EQ(json["original_max_position_embeddings"], 16);
    }
    EXPECT_EQ(type == "gpt_oss" && !json["rope_scaling"].contains("rope_type"), false);
  }
}

}  // namespace
}  // namespace quern
