// Types chosen by measurement: what is measured against plain computations, and what the choice must obey.
#include "infer/auto_types.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <set>

#include "infer/activation_sampler.hpp"
#include "infer/output_error.hpp"
#include "infer/sensitivity.hpp"
#include "math/block_decode.hpp"
#include "math/block_formats.hpp"
#include "math/quantize.hpp"
#include "model/gguf_model.hpp"
#include "support/published_models.hpp"

namespace quern {
namespace {

const Backend& backend() {
  static const Backend chosen{supported_kernels().front(), false};
  return chosen;
}

PublishedModel model_of(const std::string& architecture, std::int64_t experts = 0) {
  PublishedModel model;
  model.name = architecture;
  model.architecture = architecture;
  model.experts = experts;
  return model;
}

/// A text with structure: the next token is a function of the last, mostly.
std::vector<std::int32_t> sample_tokens(std::int64_t count) {
  std::mt19937_64 random(9);
  std::vector<std::int32_t> tokens{1};
  while (std::ssize(tokens) < count) {
    const auto next = random() % 4 == 0 ? random() % kPublishedVocab : static_cast<std::uint64_t>(tokens.back() * 7 + 3);
    tokens.push_back(static_cast<std::int32_t>(next % kPublishedVocab));
  }
  return tokens;
}

AutoTypesOptions options_of(double bits_per_weight) {
  AutoTypesOptions options;
  options.budget.bits_per_weight = bits_per_weight;
  options.context_tokens = 32;
  return options;
}

AutoTypes chosen_of(const GgufFile& file, const AutoTypesOptions& options, int threads = 2) {
  ThreadTeam team(threads);
  auto chosen = choose_auto_types(file, backend(), team, sample_tokens(32 * 12), {}, options);
  EXPECT_TRUE(chosen) << chosen.error().message;
  return chosen ? std::move(*chosen) : AutoTypes{};
}

const AutoTensor& tensor_of(const AutoTypes& types, std::string_view name) {
  const auto found =
      std::find_if(types.tensors.begin(), types.tensors.end(), [&](const AutoTensor& t) { return t.name == name; });
  EXPECT_NE(found, types.tensors.end()) << name;
  return *found;
}

TEST(LayerGroups, KeepTheEndsApart) {
  using internal::layer_groups;
  EXPECT_EQ(layer_groups(4, 8), (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(layer_groups(4, 1), (std::vector<std::int64_t>{0, 0, 0, 0}));
  EXPECT_EQ(layer_groups(6, 3), (std::vector<std::int64_t>{0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(layer_groups(9, 5), (std::vector<std::int64_t>{0, 1, 2, 2, 2, 3, 3, 3, 4}));
  for (std::int64_t layers = 1; layers < 90; ++layers) {
    for (std::int64_t groups = 1; groups < 20; ++groups) {
      const auto of = layer_groups(layers, groups);
      EXPECT_TRUE(std::is_sorted(of.begin(), of.end()));
      EXPECT_EQ(std::set<std::int64_t>(of.begin(), of.end()).size(), static_cast<std::size_t>(std::min(layers, groups)))
          << layers << " " << groups;
      EXPECT_EQ(of.front(), 0);
      EXPECT_LT(of.back(), std::min(layers, groups));
    }
  }
}

TEST(ActivationSampler, KeepsRowsSpreadOverTheText) {
  ModelConfig config;
  config.layers = 2;
  config.width = 4;
  config.heads = 1;
  config.kv_heads = 1;
  config.head_dim = 4;
  config.mlp_width = 8;
  constexpr std::int64_t kRows = 103;
  std::vector<float> data(kRows * 4);
  std::iota(data.begin(), data.end(), 0.0F);  // row r begins with 4 r
  const auto sample = [&](std::int64_t piece, int threads) {
    ActivationSampler sampler(config, {.rows_in_all = kRows, .rows = 10});
    ThreadTeam team(threads);
    for (std::int64_t first = 0; first < kRows; first += piece) {
      const ObservedRows rows{.input = MatrixInput::mlp_in,
                              .layer = 1,
                              .data = data.data() + first * 4,
                              .rows = std::min(piece, kRows - first),
                              .cols = 4};
      team.run([&](TeamMember& member) { sampler.observe(member, rows); });
    }
    EXPECT_TRUE(sampler.rows(MatrixInput::qkv, 0).empty() || sampler.rows(MatrixInput::qkv, 0)[0].rows == 0);
    const auto kept = sampler.rows(MatrixInput::mlp_in, 1);
    EXPECT_EQ(kept.size(), 1U);
    EXPECT_EQ(kept[0].rows, 10);
    return std::vector<float>(kept[0].data, kept[0].data + 40);
  };
  const std::vector<float> whole = sample(kRows, 1);
  for (std::int64_t slot = 0; slot < 10; ++slot) {
    const float row = whole[static_cast<std::size_t>(slot * 4)] / 4.0F;
    EXPECT_GE(row, static_cast<float>(slot * kRows / 10));
    EXPECT_LT(row, static_cast<float>((slot + 1) * kRows / 10));
    EXPECT_EQ(whole[static_cast<std::size_t>(slot * 4 + 3)], 4.0F * row + 3.0F);
  }
  EXPECT_EQ(sample(7, 3), whole) << "in pieces, with more threads";
}

TEST(ActivationSampler, LimitsNorms) {
  ModelConfig config;
  config.layers = 1;
  config.width = 2;
  config.heads = 1;
  config.kv_heads = 1;
  config.head_dim = 2;
  config.mlp_width = 2;
  ActivationSampler sampler(config, {.rows_in_all = 5, .rows = 5});
  const std::vector<float> data{3, 4, 0, 5, 300, 400, 5, 0, 0, 1};
  ThreadTeam team(1);
  const ObservedRows rows{.input = MatrixInput::qkv, .layer = 0, .data = data.data(), .rows = 5, .cols = 2};
  team.run([&](TeamMember& member) { sampler.observe(member, rows); });
  sampler.limit_norms(4.0);
  const auto kept = sampler.rows(MatrixInput::qkv, 0);
  const std::vector<float> expected{3, 4, 0, 5, 12, 16, 5, 0, 0, 1};
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(kept[0].data[i], expected[i], 1e-5) << i;
}

TEST(OutputErrors, EqualAPlainComputation) {
  PublishedModel model = model_of("mixtral", 4);
  model.architecture = "llama";
  const auto image = published_model_image(model);
  const auto file = GgufFile::parse(image, "model").value();
  ThreadTeam team(2);
  const std::vector<ElementType> types{ElementType::q4_0, ElementType::q8_0, ElementType::f32};
  for (const char* name : {"blk.1.ffn_down_exps.weight", "blk.0.attn_q.weight"}) {
    const GgufTensor* tensor = file.find_tensor(name);
    ASSERT_NE(tensor, nullptr);
    const std::int64_t cols = tensor->shape[0];
    const std::int64_t rows = tensor->shape[1];
    std::mt19937_64 random(4);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(5 * cols));
    for (float& value : x) value = normal(random);
    std::vector<ActivationSampler::Rows> inputs{{0, 3, cols, x.data()}};
    if (tensor->shape[2] > 1) inputs.push_back({2, 2, cols, x.data() + 3 * cols});
    ImportanceMatrix importance;
    ActivationSums& sums = importance.weights[name];
    sums = {.cols = cols, .matrices = tensor->shape[2], .sum2 = {}, .counts = {}};
    sums.counts.assign(static_cast<std::size_t>(sums.matrices), 1.0F);
    for (std::int64_t i = 0; i < cols * sums.matrices; ++i) sums.sum2.push_back(static_cast<float>(1 + i % 5));

    const TensorQuantizer quantizer(*backend().kernels, team, &importance);
    const auto errors = output_errors(backend(), team, quantizer, *tensor, types, inputs, 1 << 20);
    ASSERT_TRUE(errors) << errors.error().message;
    std::vector<double> expected(types.size(), 0.0);
    double reference = 0.0;
    for (const auto& input : inputs) {
      const auto* w = reinterpret_cast<const float*>(tensor->data) + input.expert * rows * cols;
      const std::vector<float> weights = importance.importance(name, input.expert);
      for (std::size_t t = 0; t < types.size(); ++t) {
        std::vector<std::byte> blocks(*bytes_of(types[t], rows * cols));
        (void)quantize(*backend().kernels, team, {types[t], w, rows, cols, weights.data(), blocks.data()});
        std::vector<float> read(static_cast<std::size_t>(rows * cols));
        block_decoder_portable()(types[t], blocks.data(), rows * cols, read.data());
        for (std::int64_t i = 0; i < input.rows; ++i) {
          for (std::int64_t r = 0; r < rows; ++r) {
            double y = 0.0;
            double d = 0.0;
            for (std::int64_t c = 0; c < cols; ++c) {
              const auto v = static_cast<double>(input.data[i * cols + c]);
              y += static_cast<double>(w[r * cols + c]) * v;
              d += (static_cast<double>(w[r * cols + c]) -
                    static_cast<double>(read[static_cast<std::size_t>(r * cols + c)])) *
                   v;
            }
            expected[t] += d * d;
            if (t == 0) reference += y * y;
          }
        }
      }
    }
    for (std::size_t t = 0; t < types.size(); ++t) {
      EXPECT_NEAR((*errors)[t], expected[t] / reference, 1e-4 * expected[t] / reference) << name << " " << t;
    }
    EXPECT_EQ((*errors)[2], 0.0) << "its own type";
    EXPECT_GT((*errors)[0], 20.0 * (*errors)[1]);
  }
}

TEST(OutputErrors, LookupsCountTheRowsLookedUp) {
  const auto image = published_model_image(model_of("qwen2"));
  const auto file = GgufFile::parse(image, "model").value();
  ThreadTeam team(1);
  const GgufTensor* tensor = file.find_tensor("token_embd.weight");
  const TensorQuantizer quantizer(*backend().kernels, team, nullptr);
  const std::vector<ElementType> types{ElementType::q8_0};
  const std::vector<std::int64_t> rows{3, 3, 7};
  const auto errors = lookup_errors(quantizer, *tensor, types, rows);
  ASSERT_TRUE(errors);
  double error = 0.0;
  double value = 0.0;
  for (const std::int64_t row : rows) {
    const auto* w = reinterpret_cast<const float*>(tensor->data) + row * 64;
    std::vector<std::byte> blocks(*bytes_of(ElementType::q8_0, 64));
    (void)quantize(*backend().kernels, team, {ElementType::q8_0, w, 1, 64, nullptr, blocks.data()});
    std::vector<float> read(64);
    block_decoder_portable()(ElementType::q8_0, blocks.data(), 64, read.data());
    for (std::size_t c = 0; c < 64; ++c) {
      error += std::pow(static_cast<double>(w[c]) - static_cast<double>(read[c]), 2);
      value += std::pow(static_cast<double>(w[c]), 2);
    }
  }
  EXPECT_NEAR(errors->front(), error / value, 1e-9);
}

class AutoTypesOf : public testing::TestWithParam<PublishedModel> {};

TEST_P(AutoTypesOf, FitsTheSizeAndUsesItWell) {
  const auto image = published_model_image(GetParam());
  const auto file = GgufFile::parse(image, "model").value();
  double last = 1e300;
  for (const double bits : {6.5, 9.0, 17.0, 33.0}) {
    const AutoTypes types = chosen_of(file, options_of(bits));
    ASSERT_EQ(types.choices.size(), file.tensors().size());
    std::size_t bytes = 0;
    double elements = 0.0;
    for (std::size_t i = 0; i < types.choices.size(); ++i) {
      const TensorChoice& choice = types.choices[i];
      ASSERT_EQ(choice.tensor, &file.tensors()[i]);
      bytes += bytes_of(choice.type, choice.tensor->elements()).value();
      elements += static_cast<double>(choice.tensor->elements());
      EXPECT_EQ(choice.tensor->shape[0] % block_format(choice.type).block_elements, 0);
    }
    EXPECT_EQ(bytes, types.tensor_bytes);
    EXPECT_LE(types.bits_per_weight, bits);
    EXPECT_NEAR(types.bits_per_weight, static_cast<double>(bytes) * 8.0 / elements, 1e-9);
    EXPECT_LE(types.divergence, last) << bits;
    last = types.divergence;
    if (bits == 33.0) {
      EXPECT_EQ(types.divergence, 0.0) << "everything stays as it is";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, AutoTypesOf,
                         testing::Values(model_of("qwen2"), model_of("gpt2"), model_of("phi3"), model_of("qwen3moe", 4)),
                         [](const auto& tested) { return tested.param.name; });

TEST(AutoTypes, ThreadsDoNotChangeTheChoice) {
  const auto image = published_model_image(model_of("qwen2"));
  const auto file = GgufFile::parse(image, "model").value();
  const AutoTypes one = chosen_of(file, options_of(6.0), 1);
  const AutoTypes three = chosen_of(file, options_of(6.0), 3);
  ASSERT_EQ(one.tensors.size(), three.tensors.size());
  for (std::size_t i = 0; i < one.tensors.size(); ++i) {
    EXPECT_EQ(one.tensors[i].type, three.tensors[i].type);
    EXPECT_EQ(one.tensors[i].output_error, three.tensors[i].output_error);
    EXPECT_EQ(one.tensors[i].sensitivity, three.tensors[i].sensitivity);
  }
}

TEST(AutoTypes, WhatMattersNotGetsTheSmallestType) {
  // Without a second half of layer 1, what leads into it cannot change a prediction.
  auto image = published_model_image(model_of("qwen2"));
  {
    const auto file = GgufFile::parse(image, "model").value();
    const GgufTensor* down = file.find_tensor("blk.1.ffn_down.weight");
    std::memset(image.data() + (down->data - image.data()), 0, down->bytes);
  }
  const auto file = GgufFile::parse(image, "model").value();
  const AutoTypes types = chosen_of(file, options_of(7.5));
  for (const char* name : {"blk.1.ffn_gate.weight", "blk.1.ffn_up.weight", "blk.1.ffn_down.weight"}) {
    EXPECT_EQ(tensor_of(types, name).sensitivity, 0.0) << name;
    EXPECT_EQ(block_format(tensor_of(types, name).type).bits_per_element(), 4.5) << name;
  }
  EXPECT_GT(tensor_of(types, "blk.1.attn_v.weight").sensitivity, 0.0);
  const bool better = std::any_of(types.tensors.begin(), types.tensors.end(), [](const AutoTensor& tensor) {
    return block_format(tensor.type).bits_per_element() > 8.0;
  });
  EXPECT_TRUE(better) << "what is saved there is spent elsewhere";
}

TEST(AutoTypes, PredictsTheDivergenceOfItsChoice) {
  const auto image = published_model_image(model_of("qwen2"));
  const auto file = GgufFile::parse(image, "model").value();
  const AutoTypes types = chosen_of(file, options_of(6.0));
  ThreadTeam team(2);
  auto bound = bind_gguf_weights(file, model_config_from_gguf(file).value(), WeightPrecision::f32, 32).value();
  const auto chunks = ScoringChunks::cut(sample_tokens(32 * 12), 32, 0, {}, "t").value();
  auto shift = PredictionShift::create(backend(), bound.weights, team, chunks).value();
  EXPECT_NEAR(shift.measure().value(), 0.0, 1e-12);
  const TensorQuantizer quantizer(*backend().kernels, team, &types.importance);
  std::vector<AlignedBuffer> replaced;
  for (const TensorChoice& choice : types.choices) {
    if (!choice.quantize) continue;
    replaced.push_back(quantizer.quantize(*choice.tensor, choice.type).value());
    EXPECT_GE(repoint_weights(bound.weights, choice.tensor->data, choice.type, replaced.back().data()), 1)
        << choice.tensor->name;
  }
  const double measured = shift.measure().value();
  EXPECT_GT(measured, types.divergence / 2.0);
  EXPECT_LT(measured, types.divergence * 2.0);
}

TEST(AutoTypes, TypesThatAreAskedForStand) {
  const auto image = published_model_image(model_of("qwen2"));
  const auto file = GgufFile::parse(image, "model").value();
  AutoTypesOptions options = options_of(8.0);
  options.output = ElementType::q8_0;
  options.overrides = {{"ffn_down", ElementType::q5_0}};
  const AutoTypes types = chosen_of(file, options);
  for (const AutoTensor& tensor : types.tensors) {
    const bool down = tensor.name.find("ffn_down") != std::string::npos;
    EXPECT_EQ(tensor.asked_for, down || tensor.name == "output.weight") << tensor.name;
    if (down) {
      EXPECT_EQ(tensor.type, ElementType::q5_0);
    }
    if (tensor.name == "output.weight") {
      EXPECT_EQ(tensor.type, ElementType::q8_0);
    }
  }
}

TEST(AutoTypes, BytesAreTheWholeFile) {
  const auto image = published_model_image(model_of("qwen2"));
  const auto file = GgufFile::parse(image, "model").value();
  AutoTypesOptions options = options_of(0.0);
  options.budget = {.bytes = image.size() / 4, .bits_per_weight = {}};
  options.metadata_bytes = 0;
  const AutoTypes types = chosen_of(file, options);
  std::size_t data = 0;
  for (const GgufTensor& tensor : file.tensors()) data += (tensor.bytes + 31) / 32 * 32;
  std::size_t whole = image.size() - data;
  for (const TensorChoice& choice : types.choices) {
    whole += (bytes_of(choice.type, choice.tensor->elements()).value() + 31) / 32 * 32;
  }
  EXPECT_LE(whole, image.size() / 4);
  EXPECT_GT(whole, image.size() / 5);
}

TEST(AutoTypes, MistakesGetASentence) {
  const auto image = published_model_image(model_of("qwen2"));
  const auto file = GgufFile::parse(image, "model").value();
  ThreadTeam team(1);
  const auto refused = [&](const AutoTypesOptions& options, std::int64_t tokens, const std::string& part) {
    const auto chosen = choose_auto_types(file, backend(), team, sample_tokens(tokens), {}, options);
    ASSERT_FALSE(chosen);
    EXPECT_EQ(chosen.error().code, ErrorCode::bad_input);
    EXPECT_NE(chosen.error().message.find(part), std::string::npos) << chosen.error().message;
  };
  refused(options_of(3.0), 400, "3 bits per weight are too few for model: with the smallest types it takes 4.");
  AutoTypesOptions bytes = options_of(0.0);
  bytes.budget = {.bytes = 1000, .bits_per_weight = {}};
  refused(bytes, 400, "1000 bytes are too few");
  refused(options_of(6.0), 20, "calibration text");
  AutoTypesOptions none;
  refused(none, 400, "no size");
  AutoTypesOptions stopped = options_of(6.0);
  std::set<std::string> stages;
  stopped.progress = [&](std::string_view stage, std::int64_t, std::int64_t) -> Result<void> {
    stages.insert(std::string(stage));
    return stage == "measuring sensitivity" ? Result<void>(bad_input("enough")) : Result<void>();
  };
  refused(stopped, 400, "enough");
  EXPECT_EQ(stages.size(), 3U);
}

}  // namespace
}  // namespace quern
