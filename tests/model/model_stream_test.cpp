// Models on their way between files: what every reader must give, and what comes back after a journey.
#include "model/model_stream.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "model/checkpoint.hpp"
#include "model/gguf_model.hpp"
#include "support/model_harness.hpp"
#include "support/published_models.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

class ModelStreamTest : public testing::Test {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::string write_published(const PublishedModel& model, bool tokenizer = false) {
    const std::vector<std::byte> image = published_model_image(model, tokenizer);
    std::ofstream(path("published.gguf"), std::ios::binary)
        .write(reinterpret_cast<const char*>(image.data()), std::ssize(image));
    return path("published.gguf");
  }

  /// A checkpoint of a model with random weights.
  std::string write_trained(const ModelConfig& config, const Tokenizer& tokenizer, std::vector<float>& weights) {
    const ParameterLayout layout = parameter_layout(config);
    weights = tiny_parameters(config, layout, 5);
    CheckpointInfo info;
    info.model = config;
    info.tokenizer_json = tokenizer.to_json();
    info.step = 17;
    const auto saved = save_checkpoint(path("trained.h5"), info, layout, {weights, {}, {}});
    EXPECT_TRUE(saved) << saved.error().message;
    return path("trained.h5");
  }

  TemporaryFolder folder_;
};

std::vector<float> values_of(const StreamTensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  const auto read = read_rows_f32(tensor, 0, tensor.rows(), values);
  EXPECT_TRUE(read) << read.error().message;
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void expect_same(const ModelStream& a, const ModelStream& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (std::size_t i = 0; i < a.tensors.size(); ++i) {
    EXPECT_EQ(a.tensors[i].name, b.tensors[i].name);
    EXPECT_EQ(a.tensors[i].shape, b.tensors[i].shape) << a.tensors[i].name;
    EXPECT_TRUE(same_bits(values_of(a.tensors[i]), values_of(b.tensors[i]))) << a.tensors[i].name;
  }
}

TEST_F(ModelStreamTest, EveryPublishedModelIsAWholeStream) {
  for (const PublishedModel& model : published_models()) {
    SCOPED_TRACE(model.name);
    const auto stream = stream_gguf(write_published(model));
    ASSERT_TRUE(stream) << stream.error().message;
    const auto whole = check_stream(*stream, "model");
    EXPECT_TRUE(whole) << whole.error().message;
    EXPECT_EQ(stream->facts.architecture, model.architecture);
  }
}

// Fused and separate tensors, renamed norms and stacked experts come out of a second file as they were in the first.
TEST_F(ModelStreamTest, PublishedModelsGoThroughGgufUnchanged) {
  for (const PublishedModel& model : published_models()) {
    SCOPED_TRACE(model.name);
    const auto stream = stream_gguf(write_published(model, true));
    ASSERT_TRUE(stream) << stream.error().message;
    const auto wrote = write_gguf(*stream, path("again.gguf"), {});
    ASSERT_TRUE(wrote) << wrote.error().message;
    const auto again = stream_gguf(path("again.gguf"));
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(to_json(again->config), to_json(stream->config));
    EXPECT_EQ(again->facts.architecture, model.architecture);
    expect_same(*stream, *again);
    for (std::size_t i = 0; i < stream->tensors.size(); ++i) {
      if (stream->tensors[i].shape.size() > 1 && stream->tensors[i].name.ends_with(".weight")) {
        EXPECT_EQ(again->tensors[i].type, stream->tensors[i].type) << stream->tensors[i].name;
      }
    }
  }
}

TEST_F(ModelStreamTest, RowsMayBeReadInAnyPieces) {
  ModelConfig config = tiny_models().front().config;
  config.vocab = 257;
  std::vector<float> weights;
  auto stream = stream_checkpoint(write_trained(config, Tokenizer::bytes(true), weights));
  ASSERT_TRUE(stream) << stream.error().message;
  for (const RopePairing pairing : kRopePairings) {
    const ModelStream other = with_rope_pairing(*stream, pairing);
    for (const StreamTensor& tensor : other.tensors) {
      const std::vector<float> whole = values_of(tensor);
      for (const std::int64_t step : {1, 3, 7}) {
        std::vector<float> pieces(whole.size());
        for (std::int64_t row = 0; row < tensor.rows(); row += step) {
          const std::int64_t count = std::min(step, tensor.rows() - row);
          const auto part = std::span(pieces).subspan(static_cast<std::size_t>(row * tensor.cols()),
                                                      static_cast<std::size_t>(count * tensor.cols()));
          ASSERT_TRUE(read_rows_f32(tensor, row, count, part));
        }
        EXPECT_TRUE(same_bits(pieces, whole)) << tensor.name << " in steps of " << step;
      }
    }
  }
}

TEST(RopePairingOrder, MovesRowsAsTheRotationPairsThem) {
  ModelStream stream;
  ModelConfig& c = stream.config;
  c.vocab = 3, c.layers = 1, c.width = 4, c.heads = 2, c.kv_heads = 1, c.head_dim = 6, c.mlp_width = 2, c.rope_dims = 4;
  c.rope_pairing = RopePairing::halves;
  for (const StreamTensorSpec& spec : stream_tensors(c)) {
    StreamTensor tensor;
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    tensor.read = [cols = spec.shape.back()](std::int64_t first, std::int64_t count,
                                             std::span<std::byte> out) -> Result<void> {
      auto* values = reinterpret_cast<float*>(out.data());
      for (std::int64_t i = 0; i < count * cols; ++i) values[i] = static_cast<float>((first * cols + i) / cols);
      return {};
    };
    stream.tensors.push_back(tensor);
  }
  const ModelStream adjacent = with_rope_pairing(stream, RopePairing::adjacent);
  EXPECT_EQ(adjacent.config.rope_pairing, RopePairing::adjacent);
  const std::vector<float> rows = values_of(*adjacent.find("blk.0.attn_q.weight"));
  // Head of six, four rotated: pairs (0, 2) and (1, 3) stand side by side, 4 and 5 stay.
  const std::vector<float> expected = {0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11};
  for (std::size_t row = 0; row < expected.size(); ++row) EXPECT_EQ(rows[row * 4], expected[row]) << row;
  expect_same(with_rope_pairing(adjacent, RopePairing::halves), stream);
}

struct Journey {
  std::string name;
  ModelConfig config;
  std::string architecture;
};

/// Models that are trained here and have a place among GGUF's architectures.
std::vector<Journey> journeys() {
  ModelConfig base;
  base.context = 12, base.layers = 2, base.width = 32, base.heads = 4, base.kv_heads = 2, base.head_dim = 8;
  base.mlp_width = 48;
  std::vector<Journey> list;
  const auto add = [&](const std::string& name, const std::string& architecture, auto change) {
    ModelConfig config = base;
    change(config);
    list.push_back({name, config, architecture});
  };
  add("halves", "llama", [](ModelConfig&) {});
  add("adjacent", "llama", [](ModelConfig& c) { c.rope_pairing = RopePairing::adjacent; });
  add("untied", "llama", [](ModelConfig& c) { c.tied_embeddings = false; });
  add("biases", "llama", [](ModelConfig& c) { c.attention_bias = c.mlp_bias = true; });
  add("wide heads", "llama", [](ModelConfig& c) { c.head_dim = 16; });
  add("qk norm", "qwen3", [](ModelConfig& c) { c.qk_norm = true; });
  add("adjacent qk norm", "qwen3", [](ModelConfig& c) { c.qk_norm = true, c.rope_pairing = RopePairing::adjacent; });
  const auto gpt2 = [](ModelConfig& c) {
    c.norm = NormKind::layer_norm, c.position = PositionKind::learned, c.mlp = MlpKind::gelu, c.kv_heads = c.heads;
  };
  add("gpt2", "gpt2", [&](ModelConfig& c) { gpt2(c), c.norm_bias = c.attention_bias = c.mlp_bias = true; });
  add("gpt2 without biases", "gpt2", gpt2);
  add("gpt2 untied", "gpt2", [&](ModelConfig& c) { gpt2(c), c.norm_bias = true, c.tied_embeddings = false; });
  const auto gemma = [](ModelConfig& c) {
    c.mlp = MlpKind::geglu, c.post_norms = true, c.embedding_scale = static_cast<float>(std::sqrt(32.0)), c.layers = 4;
  };
  const auto gemma2 = [&](ModelConfig& c) { gemma(c), c.attention_soft_cap = 50.0F, c.final_soft_cap = 30.0F; };
  add("gemma2", "gemma2", [&](ModelConfig& c) { gemma2(c), c.window = 4, c.window_period = 2; });
  add("gemma2 without windows", "gemma2", gemma2);
  add("gemma3", "gemma3", [&](ModelConfig& c) { gemma(c), c.qk_norm = true, c.window = 4, c.window_period = 3; });
  add("gemma3 all windowed", "gemma3", [&](ModelConfig& c) { gemma(c), c.qk_norm = true, c.window = 4; });
  const auto gpt_oss = [](ModelConfig& c) {
    c.mlp = MlpKind::swiglu_clamped, c.attention_sinks = true, c.experts = 3, c.experts_used = 2;
  };
  add("gpt-oss", "gpt-oss", [&](ModelConfig& c) { gpt_oss(c), c.window = 4, c.window_period = 2; });
  add("gpt-oss without windows", "gpt-oss", gpt_oss);
  return list;
}

TEST_F(ModelStreamTest, CheckpointsComeBackFromGgufBitForBit) {
  for (Journey journey : journeys()) {
    SCOPED_TRACE(journey.name);
    for (const Tokenizer& tokenizer : {Tokenizer::bytes(true), Tokenizer::bytes(false)}) {
      journey.config.vocab = tokenizer.vocab_size();
      std::vector<float> weights;
      const auto stream = stream_checkpoint(write_trained(journey.config, tokenizer, weights));
      ASSERT_TRUE(stream) << stream.error().message;
      const auto plan = plan_gguf(*stream, {});
      ASSERT_TRUE(plan) << plan.error().message;
      EXPECT_EQ(plan->architecture, journey.architecture);
      auto wrote = write_gguf(*stream, path("model.gguf"), {});
      ASSERT_TRUE(wrote) << wrote.error().message;

      // Anybody's reader: the architecture's own config.
      const auto file = GgufFile::open(path("model.gguf"));
      ASSERT_TRUE(file);
      const auto published = model_config_from_gguf(*file);
      ASSERT_TRUE(published) << published.error().message;
      EXPECT_TRUE(bind_gguf_weights(*file, *published, WeightPrecision::f32, 12));
      for (std::int64_t layer = 0; layer < journey.config.layers; ++layer) {
        // A window that sees all of a text is as good as none.
        const bool windowed = published->windowed(layer) && published->window < journey.config.context;
        EXPECT_EQ(windowed, journey.config.windowed(layer)) << layer;
        EXPECT_TRUE(!windowed || published->window == journey.config.window) << layer;
      }
      // llama.cpp assumes 4096 tokens for one of them and does not open the other without the key.
      if (journey.architecture == "gemma2" || journey.architecture == "gpt-oss") {
        EXPECT_NE(file->find(journey.architecture + ".attention.sliding_window"), nullptr);
      }

      const auto back = stream_gguf(path("model.gguf"));
      ASSERT_TRUE(back) << back.error().message;
      EXPECT_EQ(to_json(back->config), to_json(journey.config));
      EXPECT_EQ(*back->tokenizer, tokenizer);
      wrote = write_checkpoint(*back, path("back.h5"), {});
      ASSERT_TRUE(wrote) << wrote.error().message;
      const auto info = read_checkpoint_info(path("back.h5"));
      ASSERT_TRUE(info);
      EXPECT_EQ(to_json(info->model), to_json(journey.config));
      EXPECT_EQ(info->step, 17);
      const ParameterLayout layout = parameter_layout(info->model);
      std::vector<float> again(static_cast<std::size_t>(layout.elements));
      ASSERT_TRUE(read_checkpoint_tensors(path("back.h5"), layout, {again, {}, {}}));
      for (const Parameter& p : layout.parameters) {
        EXPECT_EQ(0, std::memcmp(&again[static_cast<std::size_t>(p.offset)], &weights[static_cast<std::size_t>(p.offset)],
                                 static_cast<std::size_t>(p.count()) * sizeof(float)))
            << p.name;
      }
    }
  }
}

TEST_F(ModelStreamTest, WhatNoArchitectureHasIsNamed) {
  ModelConfig base = journeys().front().config;
  base.vocab = 257;
  const auto message_of = [&](auto change) {
    ModelStream stream;
    stream.config = base;
    change(stream.config);
    const auto plan = plan_gguf(stream, {});
    return plan ? plan->architecture : plan.error().message;
  };
  const auto expect_named = [&](const std::string& field, auto change) {
    EXPECT_NE(message_of(change).find(": " + field + " "), std::string::npos) << message_of(change);
  };
  expect_named("mlp relu2", [](ModelConfig& c) { c.mlp = MlpKind::relu2; });
  expect_named("mlp gelu_erf", [](ModelConfig& c) { c.mlp = MlpKind::gelu_erf; });
  expect_named("norm layer_norm", [](ModelConfig& c) { c.norm = NormKind::layer_norm; });
  expect_named("position none", [](ModelConfig& c) { c.position = PositionKind::none; });
  expect_named("embedding_scale 3", [](ModelConfig& c) { c.embedding_scale = 3.0F; });
  expect_named("final_soft_cap 30", [](ModelConfig& c) { c.final_soft_cap = 30.0F; });
  expect_named("attention_soft_cap 5", [](ModelConfig& c) { c.attention_soft_cap = 5.0F; });
  expect_named("window 8", [](ModelConfig& c) { c.window = 8; });
  EXPECT_EQ(message_of([](ModelConfig& c) { c.rope_dims = 4; }), "phi3");
  EXPECT_EQ(message_of([](ModelConfig& c) { c.qkv_bias = true; }), "qwen2");
  expect_named("attention_scale 0.5", [](ModelConfig& c) { c.attention_scale = 0.5F; });
  expect_named("attention_sinks true", [](ModelConfig& c) { c.attention_sinks = true; });
}

TEST(PlanGguf, SaysWhichBetasOfYarnOthersDoNotRead) {
  ModelStream stream;
  stream.config = journeys().front().config;
  stream.config.vocab = 257;
  stream.config.rope_scaling = RopeScaling::yarn;
  stream.config.rope_factor = 4.0F;
  for (const StreamTensorSpec& spec : stream_tensors(stream.config)) {
    stream.tensors.emplace_back();
    stream.tensors.back().name = spec.name;
    stream.tensors.back().shape = spec.shape;
  }
  auto plan = plan_gguf(stream, {});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_TRUE(plan->remarks.empty()) << plan->remarks.front();
  stream.config.rope_beta_fast = 16.0F;
  plan = plan_gguf(stream, {});
  ASSERT_TRUE(plan) << plan.error().message;
  ASSERT_EQ(plan->remarks.size(), 1U);
  EXPECT_NE(plan->remarks[0].find("rope_beta_fast 16 and rope_beta_slow 1 are written"), std::string::npos)
      << plan->remarks[0];
}

TEST_F(ModelStreamTest, TypesOfMatrices) {
  ModelConfig config = journeys().front().config;
  config.vocab = 257;
  std::vector<float> weights;
  const auto stream = stream_checkpoint(write_trained(config, Tokenizer::bytes(true), weights));
  ASSERT_TRUE(stream);
  for (const ElementType type : {ElementType::f16, ElementType::bf16, ElementType::q8_0}) {
    StreamWriteOptions options;
    options.type = type;
    const auto plan = plan_gguf(*stream, options);
    ASSERT_TRUE(plan);
    const auto wrote = write_gguf(*stream, path("typed.gguf"), options);
    ASSERT_TRUE(wrote) << wrote.error().message;
    const auto back = stream_gguf(path("typed.gguf"));
    ASSERT_TRUE(back) << back.error().message;
    for (const StreamTensor& tensor : back->tensors) {
      const bool matrix = tensor.shape.size() > 1;
      // Rows of 48 are one and a half blocks: the documented fallback.
      const ElementType fitting = type == ElementType::q8_0 && tensor.cols() % 32 != 0 ? ElementType::f16 : type;
      EXPECT_EQ(tensor.type, matrix ? fitting : ElementType::f32) << tensor.name;
      const std::vector<float> a = values_of(tensor);
      const std::vector<float> b = values_of(*stream->find(tensor.name));
      const double tolerance = type == ElementType::f16 ? 1e-3 : type == ElementType::bf16 ? 4e-3 : 1e-2;
      double error = 0.0, size = 0.0;
      for (std::size_t i = 0; i < a.size(); ++i) {
        error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
        size += std::pow(static_cast<double>(b[i]), 2);
      }
      EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(size)) << tensor.name;
    }
  }
  StreamWriteOptions options;
  options.type = ElementType::q4_k;
  const auto refused = plan_gguf(*stream, options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message,
            "--type must be f32, f16, bf16 or q8_0, found Q4_K (`quern quantize` writes the others)");
}

TEST_F(ModelStreamTest, NotANumberIsRefusedByNameAndNothingIsLeft) {
  ModelConfig config = journeys().front().config;
  config.vocab = 257;
  std::vector<float> weights;
  const std::string file = write_trained(config, Tokenizer::bytes(true), weights);
  auto stream = stream_checkpoint(file);
  ASSERT_TRUE(stream);
  for (StreamTensor& tensor : stream->tensors) {
    if (tensor.name != "blk.1.ffn_up.weight") continue;
    tensor.read = [read = tensor.read](std::int64_t first, std::int64_t count, std::span<std::byte> out) {
      auto done = read(first, count, out);
      const float nan = std::nanf("");
      std::memcpy(out.data(), &nan, sizeof nan);
      return done;
    };
  }
  StreamWriteOptions options;
  options.type = ElementType::q8_0;
  const auto wrote = write_gguf(*stream, path("out.gguf"), options);
  ASSERT_FALSE(wrote);
  EXPECT_EQ(wrote.error().code, ErrorCode::bad_input);
  EXPECT_NE(wrote.error().message.find("blk.1.ffn_gate_up.weight holds a NaN or an infinity"), std::string::npos)
      << wrote.error().message;
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path()))
    EXPECT_EQ(entry.path().filename(), "trained.h5");
}

TEST(CheckStream, NamesWhatIsWrong) {
  ModelStream stream;
  stream.config = journeys().front().config;
  stream.config.vocab = 9;
  for (const StreamTensorSpec& spec : stream_tensors(stream.config)) {
    StreamTensor tensor;
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    stream.tensors.push_back(tensor);
  }
  EXPECT_TRUE(check_stream(stream, "x"));
  ModelStream bad = stream;
  bad.tensors[3].shape = {1, 2};
  EXPECT_EQ(check_stream(bad, "x").error().message,
            "x: tensor blk.0.attn_k.weight must have the shape [16, 32], found [1, 2]");
  bad = stream;
  bad.tensors.pop_back();
  EXPECT_EQ(check_stream(bad, "x").error().message, "x: tensor output_norm.weight is missing");
  bad = stream;
  bad.tensors.push_back(bad.tensors.front());
  EXPECT_EQ(check_stream(bad, "x").error().message, "x: tensor token_embd.weight is there twice");
  bad = stream;
  bad.tensors[1].name = "blk.7.attn_norm.weight";
  EXPECT_EQ(check_stream(bad, "x").error().message, "x: tensor blk.7.attn_norm.weight is not one of this model");
}

}  // namespace
}  // namespace quern
