// Without a KV cache a text's logits are the same bits, whatever was forgotten between; and what it cannot do is said.
#include "infer/recomputing_decoder.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "support/model_harness.hpp"

namespace quern {
namespace {

std::vector<float> row_of(const Decoder& decoder, std::int64_t i) {
  return {decoder.logits(i).begin(), decoder.logits(i).end()};
}

TEST(RecomputingDecoder, LogitsAreThoseOfTheCache) {
  for (const NamedModel& model : tiny_models()) {
    SCOPED_TRACE(model.name);
    ModelHarness harness(model.config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
    const std::vector<std::int32_t> text = random_reference_batch(model.config, 1, 24, 3).inputs;
    ThreadTeam team(2);
    const Decoder::Limits limits{.batch_tokens = 8, .context_tokens = 24, .sequences = 2};
    auto cached = Decoder::create(harness.backend, harness.weights, team, limits).value();
    auto recomputing = without_kv_cache(Decoder::create(harness.backend, harness.weights, team, limits).value());
    std::vector<std::vector<float>> logits[2];
    Decoder* const decoders[2] = {cached.get(), recomputing.get()};
    for (int which = 0; which < 2; ++which) {
      Decoder& decoder = *decoders[which];
      const auto first = decoder.cache().add_sequence().value(), second = decoder.cache().add_sequence().value();
      const auto feed = [&](std::vector<SequenceTokens> entries, std::int64_t rows) {
        ASSERT_TRUE(decoder.forward(entries));
        for (std::int64_t i = 0; i < rows; ++i) logits[which].push_back(row_of(decoder, i));
      };
      const std::span<const std::int32_t> all = text;
      feed({{first, all.first(8), LogitRows::none}}, 0);  // a prompt in chunks
      feed({{first, all.subspan(8, 3), LogitRows::last}}, 1);
      feed({{second, all.subspan(4, 2)}, {first, all.subspan(11, 1)}}, 2);
      feed({{first, all.subspan(12, 1)}, {second, all.subspan(6, 1)}}, 2);
      ASSERT_TRUE(decoder.cache().truncate(first, 12));  // takes a token back
      feed({{first, all.subspan(20, 1)}}, 1);
      decoder.cache().remove_sequence(second);  // its number is given again
      const auto third = decoder.cache().add_sequence().value();
      feed({{third, all.subspan(9, 4)}}, 1);
      EXPECT_EQ(decoder.cache().length(first), 13);
      EXPECT_EQ(decoder.cache().length(third), 4);
    }
    ASSERT_EQ(logits[0].size(), 7U);
    EXPECT_TRUE(logits[0] == logits[1]);
  }
}

TEST(RecomputingDecoder, RefusesLogitsOfMoreThanTheLastToken) {
  ModelHarness harness(tiny_models()[1].config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
  ThreadTeam team(1);
  auto decoder = without_kv_cache(
      Decoder::create(harness.backend, harness.weights, team, {.batch_tokens = 8, .context_tokens = 16}).value());
  const auto sequence = decoder->cache().add_sequence().value();
  const std::vector<std::int32_t> tokens(4, 1);
  const SequenceTokens entry{sequence, tokens, LogitRows::all};
  const auto refused = decoder->forward(std::span(&entry, 1));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::bad_input);
  EXPECT_EQ(decoder->cache().length(sequence), 0);
}

}  // namespace
}  // namespace quern
