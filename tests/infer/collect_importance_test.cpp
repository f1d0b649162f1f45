// Activation statistics of every published architecture against sums over the inputs of a plain double-precision model.
#include "infer/collect_importance.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "infer/decoder.hpp"
#include "model/gguf_model.hpp"
#include "support/model_harness.hpp"
#include "support/published_models.hpp"
#include "support/published_reference.hpp"

namespace quern {
namespace {

constexpr std::int64_t kContext = 12;

struct OpenModel {
  std::vector<std::byte> image;
  GgufFile file;
  GgufWeights bound;
};

OpenModel open(const PublishedModel& model) {
  std::vector<std::byte> image = published_model_image(model);
  auto file = GgufFile::parse(image, model.name);
  const auto config = model_config_from_gguf(file.value());
  auto bound = bind_gguf_weights(*file, config.value(), WeightPrecision::f32, kContext);
  return {std::move(image), std::move(*file), std::move(bound.value())};
}

ScoringChunks chunks_of(std::int64_t count, std::int64_t context = kContext) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count * context; ++i) {
    tokens.push_back(static_cast<std::int32_t>((i * i * 7 + i * 3 + 1) % kPublishedVocab));
  }
  return ScoringChunks::cut(tokens, context, 0, 2, "t").value();
}

struct PlainSums {
  std::map<std::int64_t, std::vector<double>> sum2;  // by expert
  std::map<std::int64_t, std::int64_t> counts;
};

std::map<std::string, PlainSums, std::less<>> plain_sums(const GgufFile& file, const ScoringChunks& chunks) {
  std::map<std::string, PlainSums, std::less<>> sums;
  for (std::int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    (void)published_reference_logits(file, chunks.chunk(chunk), chunks.context,
                                     [&](std::string_view tensor, std::int64_t expert, std::span<const double> x) {
                                       PlainSums& of = sums[std::string(tensor)];
                                       auto& columns = of.sum2[expert];
                                       columns.resize(x.size());
                                       for (std::size_t i = 0; i < x.size(); ++i) columns[i] += x[i] * x[i];
                                       ++of.counts[expert];
                                     });
  }
  return sums;
}

class Collecting : public testing::TestWithParam<PublishedModel> {};

TEST_P(Collecting, EqualsAPlainModel) {
  const OpenModel model = open(GetParam());
  const ScoringChunks chunks = chunks_of(3);
  const auto expected = plain_sums(model.file, chunks);
  const Backend backend{supported_kernels().front(), false};
  ThreadTeam team(2);
  const auto matrix = collect_importance(backend, model.bound.weights, team, chunks, {.head = true, .dataset = "t"});
  ASSERT_TRUE(matrix) << matrix.error().message;
  EXPECT_EQ(matrix->chunks, 3);
  EXPECT_EQ(matrix->chunk_tokens, kContext);
  EXPECT_EQ(matrix->datasets, std::vector<std::string>{"t"});
  EXPECT_EQ(matrix->weights.size(), expected.size());
  for (const auto& [name, plain] : expected) {
    const auto found = matrix->weights.find(name);
    ASSERT_NE(found, matrix->weights.end()) << name;
    const ActivationSums& sums = found->second;
    std::int64_t rows = 0;
    for (std::int64_t expert = 0; expert < sums.matrices; ++expert) {
      const auto count = plain.counts.find(expert);
      const std::int64_t wanted = count == plain.counts.end() ? 0 : count->second;
      rows += wanted;
      ASSERT_EQ(sums.counts[static_cast<std::size_t>(expert)], static_cast<float>(wanted)) << name << " expert " << expert;
      if (wanted == 0) continue;
      const std::vector<double>& columns = plain.sum2.at(expert);
      ASSERT_EQ(static_cast<std::size_t>(sums.cols), columns.size()) << name;
      double largest = 0.0;
      for (const double column : columns) largest = std::max(largest, column);
      for (std::size_t i = 0; i < columns.size(); ++i) {
        // f32 activations of a few layers: errors of 1e-4 of the larger ones.
        ASSERT_NEAR(static_cast<double>(sums.sum2[static_cast<std::size_t>(expert * sums.cols) + i]), columns[i],
                    1e-3 * columns[i] + 1e-4 * largest)
            << name << " expert " << expert << " column " << i;
      }
    }
    const bool experts = name.find("_exps") != std::string::npos;
    EXPECT_EQ(rows, 3 * kContext * (experts ? model.bound.weights.config.experts_used : 1)) << name;
  }
}

TEST_P(Collecting, ThreadsDoNotChangeABit) {
  const OpenModel model = open(GetParam());
  const Backend backend{supported_kernels().front(), false};
  std::optional<ImportanceMatrix> first;
  for (const int threads : {1, 2, 5}) {
    ThreadTeam team(threads);
    auto matrix = collect_importance(backend, model.bound.weights, team, chunks_of(4), {.head = true});
    ASSERT_TRUE(matrix) << matrix.error().message;
    if (!first) {
      first = std::move(*matrix);
      continue;
    }
    ASSERT_EQ(matrix->weights.size(), first->weights.size());
    for (const auto& [name, sums] : first->weights) {
      EXPECT_EQ(matrix->weights.at(name).sum2, sums.sum2) << name << " with " << threads << " threads";
      EXPECT_EQ(matrix->weights.at(name).counts, sums.counts) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Collecting, testing::ValuesIn(published_models()), [](const auto& tested) {
  std::string name;
  for (const char c : tested.param.name) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
});

TEST(CollectImportance, LeavesOutTheHeadUnlessAskedFor) {
  const OpenModel model = open(published_models().front());
  const Backend backend{supported_kernels().front(), false};
  ThreadTeam team(1);
  const auto matrix = collect_importance(backend, model.bound.weights, team, chunks_of(1), {});
  ASSERT_TRUE(matrix);
  for (const auto& [name, sums] : matrix->weights) EXPECT_EQ(name.rfind("blk.", 0), 0U) << name;
}

TEST(CollectImportance, AnErrorOfTheProgressEndsIt) {
  const OpenModel model = open(published_models().front());
  const Backend backend{supported_kernels().front(), false};
  ThreadTeam team(1);
  CollectOptions options;
  std::int64_t last = 0;
  options.progress = [&](std::int64_t done) -> Result<void> {
    last = done;
    return io_error("enough");
  };
  const auto matrix = collect_importance(backend, model.bound.weights, team, chunks_of(200), options);
  ASSERT_FALSE(matrix);
  EXPECT_EQ(matrix.error().message, "enough");
  EXPECT_LT(last, 200);
}

TEST(CollectImportance, CheckpointsGetTheNamesOfBothWaysOfWriting) {
  for (const NamedModel& named : tiny_models()) {
    ModelHarness harness(named.config, {supported_kernels().front(), false}, ComputeType::f32, 2, 16);
    harness.pack();
    std::vector<std::int32_t> tokens(8);
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i) % 3;
    const auto chunks = ScoringChunks::cut(tokens, 8, 0, {}, "t").value();
    const auto matrix = collect_importance(harness.backend, harness.weights, harness.team, chunks, {.fused_too = true});
    ASSERT_TRUE(matrix) << named.name << ": " << matrix.error().message;
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_qkv"}) {
      const auto found = matrix->weights.find(std::string("blk.0.") + name + ".weight");
      ASSERT_NE(found, matrix->weights.end()) << named.name << " " << name;
      EXPECT_EQ(found->second.sum2, matrix->weights.at("blk.0.attn_q.weight").sum2);
    }
    const bool experts = named.config.experts > 0;
    EXPECT_EQ(matrix->weights.contains("blk.0.ffn_gate.weight"), named.config.gated() && !experts) << named.name;
    EXPECT_EQ(matrix->weights.contains("blk.0.ffn_gate_exps.weight"), experts) << named.name;
  }
}

TEST(ImportanceStatistics, MeasureHowUnevenColumnsAre) {
  ImportanceMatrix matrix;
  matrix.weights["even"] = {.cols = 4, .matrices = 1, .sum2 = {2, 2, 2, 2}, .counts = {2.0F}};
  matrix.weights["one"] = {.cols = 4, .matrices = 2, .sum2 = {0, 3, 0, 0, 0, 1, 0, 0}, .counts = {1.0F, 1.0F}};
  matrix.weights["nothing"] = {.cols = 2, .matrices = 1, .sum2 = {0, 0}, .counts = {0.0F}};
  const auto all = importance_statistics(matrix);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].tensor, "nothing");
  EXPECT_EQ(all[1].tensor, "one");
  EXPECT_DOUBLE_EQ(all[1].effective_share, 0.25);
  EXPECT_DOUBLE_EQ(all[1].largest_share, 1.0);
  EXPECT_DOUBLE_EQ(all[1].mean_square, 0.5);
  EXPECT_DOUBLE_EQ(all[2].effective_share, 1.0);
  EXPECT_DOUBLE_EQ(all[2].mean_square, 1.0);
}

}  // namespace
}  // namespace quern
