// Where weights lie changes no bit of what a model computes: interleaved in memory, in place and in a file beside the model;
// and which file is taken for whose.
#include "infer/weight_placement.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "infer/decoder.hpp"
#include "infer/interleaved_weights.hpp"
#include "infer/loaded_model.hpp"
#include "math/dispatch.hpp"
#include "support/published_models.hpp"

namespace quern {
namespace {

/// A published model with few and small matrices.
PublishedShape small_shape(const char* name) {
  PublishedShape shape = *find_published_shape(name);
  ModelConfig& c = shape.config;
  c.layers = 2;
  c.vocab = 288;
  c.width = 320;  // rows end within a slab
  c.heads = 5;
  c.kv_heads = 1;
  c.head_dim = 64;
  c.mlp_width = 544;
  c.experts = std::min<std::int64_t>(c.experts, 8);
  c.experts_used = std::min<std::int64_t>(c.experts_used, 2);
  if (c.window > 0) c.window = 16;
  if (!c.rope_factors.empty()) c.rope_factors.assign(32, 1.0F);
  return shape;
}

/// Logits of a prompt of 40 tokens, which takes products of many rows, and then of one more token.
std::vector<float> logits_of(const Backend& backend, ThreadTeam& team, const ModelWeights& weights) {
  auto decoder = Decoder::create(backend, weights, team, {.batch_tokens = 64, .context_tokens = 64});
  EXPECT_TRUE(decoder) << decoder.error().message;
  const auto sequence = (*decoder)->cache().add_sequence().value();
  std::vector<std::int32_t> prompt(40);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<std::int32_t>(i * 5 % 40);
  std::vector<float> all;
  for (const std::size_t count : {std::size_t{40}, std::size_t{1}}) {
    const SequenceTokens entry{sequence, std::span(prompt).first(count)};
    EXPECT_TRUE((*decoder)->forward(std::span(&entry, 1)));
    const std::span<const float> row = (*decoder)->logits(0);
    all.insert(all.end(), row.begin(), row.end());
  }
  return all;
}

class WeightPlacementTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("quern_placement_" + std::to_string(getpid()) + "_" +
               std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  /// A small Llama of Q8_0 blocks as a file.
  [[nodiscard]] std::string write_model(const char* name = "model.gguf") const {
    const std::vector<std::byte> image =
        published_model_image({.name = "llama", .architecture = "llama", .block_weights = true}, true);
    const std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(image.data()), std::ssize(image));
    return path;
  }
  Result<std::unique_ptr<LoadedModel>> load(const std::string& path, const PlacementOptions& placement) {
    return LoadedModel::load(path, backend_, team_, {.context_tokens = 64, .placement = placement});
  }
  [[nodiscard]] std::string cache_of(const std::string& model) const { return interleaved_path(model, backend_); }

  std::filesystem::path folder_;
  Backend backend_{*chosen_kernels(), false};
  ThreadTeam team_{2};
};

TEST_F(WeightPlacementTest, InterleavedInPlaceGivesTheSameBits) {
  for (const KernelTable* kernels : supported_kernels()) {
    const Backend backend{kernels, false};
    for (const auto& [shape, mix] : {std::pair{"llama2-7b", "Q4_0"}, {"llama2-7b", "Q8_0"}, {"gpt-oss-20b", "MXFP4_MOE"}}) {
      SCOPED_TRACE(std::string(isa_name(kernels->isa)) + " " + shape + " " + mix);
      std::vector<std::vector<float>> logits;
      for (const WeightPlacement placement : {WeightPlacement::mapped, WeightPlacement::interleaved}) {
        const auto model = LoadedModel::random(small_shape(shape), {.mix = mix}, backend, team_,
                                               {.context_tokens = 64, .placement = {.placement = placement}});
        ASSERT_TRUE(model) << model.error().message;
        const bool can = kernels->blocks->interleave_rows > 0;
        EXPECT_EQ((*model)->placement(), can ? placement : WeightPlacement::mapped);
        logits.push_back(logits_of(backend, team_, (*model)->weights()));
      }
      EXPECT_EQ(logits[0], logits[1]);
    }
  }
}

TEST_F(WeightPlacementTest, AFileGivesTheSameBitsWhereverItsWeightsLie) {
  if (backend_.kernels->blocks->interleave_rows == 0) GTEST_SKIP() << "nothing is interleaved for this instruction set";
  const std::string path = write_model();
  const auto mapped = load(path, {.placement = WeightPlacement::mapped});
  ASSERT_TRUE(mapped) << mapped.error().message;
  const std::vector<float> expected = logits_of(backend_, team_, (*mapped)->weights());
  for (const WeightPlacement placement :
       {WeightPlacement::interleaved, WeightPlacement::cached, WeightPlacement::cached, WeightPlacement::automatic}) {
    std::size_t last = 0;
    std::size_t all = 0;
    const auto model = load(path, {.placement = placement, .read_ahead = true, .progress = [&](auto, auto done, auto total) {
                                     last = done;
                                     all = total;
                                   }});
    ASSERT_TRUE(model) << model.error().message;
    EXPECT_EQ(last, all);
    // The second that wants a file, and the one that takes what is best, find that of the first.
    EXPECT_EQ((*model)->placement(), placement == WeightPlacement::automatic ? WeightPlacement::cached : placement);
    EXPECT_FALSE((*model)->interleaved().bytes().empty());
    EXPECT_EQ(logits_of(backend_, team_, (*model)->weights()), expected);
  }
}

TEST_F(WeightPlacementTest, AnotherModelsFileIsMadeAnew) {
  if (backend_.kernels->blocks->interleave_rows == 0) GTEST_SKIP() << "nothing is interleaved for this instruction set";
  const std::string path = write_model();
  ASSERT_TRUE(load(path, {.placement = WeightPlacement::cached}));
  const auto good = std::filesystem::file_size(cache_of(path));
  const auto expected = logits_of(backend_, team_, (*load(path, {}))->weights());
  // Changed since; cut short; and of other bytes.
  const std::vector<std::function<void()>> spoil = {
      [&] { std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::hours(1)); },
      [&] { std::filesystem::resize_file(cache_of(path), 100); },
      [&] { std::filesystem::resize_file(cache_of(path), good - 1); },
      [&] { std::ofstream(cache_of(path), std::ios::binary) << "something else"; },
      [&] { std::ofstream(cache_of(path), std::ios::binary); }};
  for (const auto& change : spoil) {
    change();
    const auto kept = load(path, {.placement = WeightPlacement::automatic});
    ASSERT_TRUE(kept) << kept.error().message;
    EXPECT_NE((*kept)->placement(), WeightPlacement::cached);
    const auto model = load(path, {.placement = WeightPlacement::cached});
    ASSERT_TRUE(model) << model.error().message;
    EXPECT_EQ(std::filesystem::file_size(cache_of(path)), good);
    EXPECT_EQ(logits_of(backend_, team_, (*model)->weights()), expected);
  }
}

TEST_F(WeightPlacementTest, StoppingLeavesNoFile) {
  if (backend_.kernels->blocks->interleave_rows == 0) GTEST_SKIP() << "nothing is interleaved for this instruction set";
  const std::string path = write_model();
  for (const WeightPlacement placement : {WeightPlacement::cached, WeightPlacement::interleaved}) {
    const auto model = load(path, {.placement = placement, .stop = [] { return true; }});
    ASSERT_FALSE(model);
    EXPECT_NE(model.error().message.find("interrupted"), std::string::npos) << model.error().message;
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(WeightPlacementTest, ReadingAheadReportsEveryByteOfAMappedFile) {
  const std::string path = write_model();
  std::size_t last = 0;
  std::size_t all = 0;
  const auto model = load(path, {.lock = false, .read_ahead = true, .progress = [&](auto, auto done, auto total) {
                                   EXPECT_GE(done, last);
                                   last = done;
                                   all = total;
                                 }});
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(last, all);
  EXPECT_EQ(all, (*model)->weight_bytes());
}

TEST_F(WeightPlacementTest, LockedWeightsAreOrTheLimitIsNamed) {
  const std::string path = write_model();
  const auto model = load(path, {.lock = true});
  if (!model) {
    EXPECT_NE(model.error().message.find("ulimit -l"), std::string::npos) << model.error().message;
  }
  if (std::string_view(QUERN_SANITIZE) != "") GTEST_SKIP() << "under sanitizers mlock does nothing and succeeds";
  // More than any machine has is refused.
  const std::span<const std::byte> huge(reinterpret_cast<const std::byte*>(4096), std::size_t{1} << 46);
  const auto refused = lock_in_memory(huge);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("the limit (ulimit -l) is "), std::string::npos);
}

}  // namespace
}  // namespace quern
