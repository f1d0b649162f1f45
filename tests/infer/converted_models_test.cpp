// Models that went from one file format to another still compute what they did: shared Hugging Face folders give the logits
// stated there, and what was trained here gives the same logits from GGUF as from its checkpoint.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "infer/decoder.hpp"
#include "infer/loaded_model.hpp"
#include "model/checkpoint.hpp"
#include "model/model_stream.hpp"
#include "support/model_harness.hpp"
#include "support/shared_data.hpp"
#include "support/tests_paths.hpp"

namespace quern {
namespace {

/// Logits [tokens, vocab] of a model file, in f32.
std::vector<float> logits_of(const std::string& path, std::span<const std::int32_t> tokens) {
  Backend backend;
  backend.kernels = chosen_kernels().value();
  ThreadTeam team(2);
  LoadOptions options;
  options.precision = Precision::f32;
  const auto model = LoadedModel::load(path, backend, team, options);
  if (!model) {
    ADD_FAILURE() << model.error().message;
    return {};
  }
  const auto length = std::ssize(tokens);
  auto decoder = Decoder::create(backend, (*model)->weights(), team,
                                 {.batch_tokens = length, .context_tokens = length, .logit_rows = length});
  if (!decoder) {
    ADD_FAILURE() << decoder.error().message;
    return {};
  }
  const SequenceTokens entry{(*decoder)->cache().add_sequence().value(), tokens, LogitRows::all};
  const auto done = (*decoder)->forward(std::span(&entry, 1));
  if (!done) ADD_FAILURE() << done.error().message;
  std::vector<float> all;
  for (std::int64_t i = 0; i < length; ++i) {
    all.insert(all.end(), (*decoder)->logits(i).begin(), (*decoder)->logits(i).end());
  }
  return all;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0.0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return most;
}

void expect_written(const Result<void>& wrote) { ASSERT_TRUE(wrote) << wrote.error().message; }

TEST(ConvertedModels, HuggingFaceFoldersGiveTheirLogits) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < 48; ++i) tokens.push_back(static_cast<std::int32_t>(300 + (7919 * i + 31 * i * i) % 200));
  TemporaryFolder folder;
  for (const std::string name : {"llama", "gpt2", "qwen3", "gpt-oss"}) {
    SCOPED_TRACE(name);
    const auto source = shared_data("testdata/hf/tiny-" + name);
    if (!source) GTEST_SKIP() << "shared data absent: testdata/hf/tiny-" << name;
    const auto stream = stream_huggingface(source->string());
    ASSERT_TRUE(stream) << stream.error().message;
    const std::string path = (folder / (name + ".gguf")).string();
    expect_written(write_gguf(*stream, path, {}));
    const auto expected_file = shared_data(name == "gpt-oss" ? "testdata/hf/tiny-gpt-oss.logits.hf.f32"
                                                             : "testdata/tiny/tiny-" + name + ".logits.f32");
    ASSERT_TRUE(expected_file);
    const std::vector<float> logits = logits_of(path, tokens);
    std::vector<float> expected(logits.size());
    std::ifstream(*expected_file, std::ios::binary)
        .read(reinterpret_cast<char*>(expected.data()), static_cast<std::streamsize>(expected.size() * sizeof(float)));
    EXPECT_LT(largest_difference(logits, expected), 1e-3);
  }
}

/// Every kind of model that is trained here and that GGUF or Hugging Face can hold, with its twin in the other formats.
TEST(ConvertedModels, GgufAndFoldersComputeWhatTheCheckpointDoes) {
  TemporaryFolder folder;
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 20; ++i) tokens.push_back((i * 37 + 11) % 50);
  int in_gguf = 0, in_folders = 0;
  for (NamedModel model : tiny_models()) {
    SCOPED_TRACE(model.name);
    model.config.vocab = 257;
    const ParameterLayout layout = parameter_layout(model.config);
    const std::vector<float> weights = tiny_parameters(model.config, layout, 3);
    CheckpointInfo info;
    info.model = model.config;
    info.tokenizer_json = Tokenizer::bytes(true).to_json();
    const std::string checkpoint = (folder / "model.h5").string();
    expect_written(save_checkpoint(checkpoint, info, layout, {weights, {}, {}}));
    const auto stream = stream_checkpoint(checkpoint);
    ASSERT_TRUE(stream) << stream.error().message;
    const std::vector<float> expected = logits_of(checkpoint, tokens);

    const std::string gguf = (folder / (model.name + ".gguf")).string();
    if (plan_gguf(*stream, {})) {
      expect_written(write_gguf(*stream, gguf, {}));
      EXPECT_LT(largest_difference(logits_of(gguf, tokens), expected), 2e-5);
      ++in_gguf;
    } else {
      EXPECT_FALSE(write_gguf(*stream, gguf, {}));
      EXPECT_FALSE(std::filesystem::exists(gguf));
    }
    if (plan_huggingface(*stream, {})) {
      const std::string hf = (folder / ("hf_" + model.name)).string();
      expect_written(write_huggingface(*stream, hf, {}));
      const auto again = stream_huggingface(hf);
      ASSERT_TRUE(again) << again.error().message;
      const std::string back = (folder / "back.h5").string();
      expect_written(write_checkpoint(*again, back, {}));
      std::vector<float> weights_again(weights.size());
      const auto info_again = read_checkpoint_info(back);
      ASSERT_TRUE(info_again);
      EXPECT_EQ(to_json(info_again->model), to_json(model.config));
      const auto read = read_checkpoint_tensors(back, layout, {weights_again, {}, {}});
      ASSERT_TRUE(read) << read.error().message;
      for (const Parameter& p : layout.parameters) {
        EXPECT_EQ(
            0, std::memcmp(&weights_again[static_cast<std::size_t>(p.offset)], &weights[static_cast<std::size_t>(p.offset)],
                           static_cast<std::size_t>(p.count()) * sizeof(float)))
            << p.name;
      }
      EXPECT_EQ(logits_of(back, tokens), expected);
      ++in_folders;
    }
  }
  EXPECT_GE(in_gguf, 4);
  EXPECT_GE(in_folders, 4);
}

}  // namespace
}  // namespace quern
