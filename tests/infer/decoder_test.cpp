// Decoding through the KV cache against whole sequences, other chunkings, other neighbours, and the trainer.
#include "infer/decoder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "support/cross_entropy.hpp"
#include "support/model_harness.hpp"

namespace quern {
namespace {

using Logits = std::vector<std::vector<float>>;

std::vector<std::int32_t> tokens_of(const ReferenceBatch& batch, const ReferenceSpan& span) {
  return {batch.inputs.begin() + span.first_row, batch.inputs.begin() + span.first_row + span.rows};
}

/// Logits of every position of `tokens`, fed in chunks of `chunk`.
Logits decode(Decoder& decoder, std::span<const std::int32_t> tokens, std::int64_t chunk) {
  Logits all;
  const KvCache::SequenceId sequence = decoder.cache().add_sequence().value();
  while (!tokens.empty()) {
    const SequenceTokens entry{sequence, tokens.first(std::min(static_cast<std::size_t>(chunk), tokens.size()))};
    const Result<void> done = decoder.forward(std::span(&entry, 1));
    EXPECT_TRUE(done) << done.error().message;
    for (std::int64_t i = 0; i < std::ssize(entry.tokens); ++i) {
      all.emplace_back(decoder.logits(i).begin(), decoder.logits(i).end());
    }
    tokens = tokens.subspan(entry.tokens.size());
  }
  decoder.cache().remove_sequence(sequence);
  return all;
}

class DecoderOnEveryModel : public testing::TestWithParam<ComputeType> {};

TEST_P(DecoderOnEveryModel, AnyChunkingAndThreadCountGiveTheSameBits) {
  for (const KernelTable* table : supported_kernels()) {
    for (const NamedModel& model : tiny_models()) {
      SCOPED_TRACE(model.name + " " + std::string(isa_name(table->isa)));
      ModelHarness harness(model.config, {table, false}, GetParam(), 1, 80);
      const ReferenceBatch batch = random_reference_batch(model.config, 1, 24, 3);
      const Decoder::Limits limits{.batch_tokens = 32, .context_tokens = 24, .sequences = 1, .all_logits = true};
      ThreadTeam one(1), three(3);
      auto decoder = Decoder::create(harness.backend, harness.weights, one, limits).value();
      auto threaded = Decoder::create(harness.backend, harness.weights, three, limits).value();
      const Logits whole = decode(*decoder, batch.inputs, 32);
      ASSERT_EQ(whole.size(), 24U);
      for (const std::int64_t chunk : {1, 7, 16}) EXPECT_TRUE(decode(*decoder, batch.inputs, chunk) == whole) << chunk;
      for (const std::int64_t chunk : {1, 32}) EXPECT_TRUE(decode(*threaded, batch.inputs, chunk) == whole) << chunk;
    }
  }
}

TEST_P(DecoderOnEveryModel, SeparatePassesAndBuffersOfEachPassGiveTheSameBits) {
  for (const NamedModel& model : tiny_models()) {
    SCOPED_TRACE(model.name);
    ModelHarness harness(model.config, {supported_kernels().front(), false}, GetParam(), 1, 80);
    const ReferenceBatch batch = random_reference_batch(model.config, 1, 24, 3);
    ThreadTeam team(2);
    Decoder::Limits limits{.batch_tokens = 32, .context_tokens = 24, .sequences = 1, .all_logits = true};
    auto plain = Decoder::create(harness.backend, harness.weights, team, limits).value();
    const Logits expected = decode(*plain, batch.inputs, 7);
    limits.arena = false;
    auto allocating = Decoder::create(harness.backend, harness.weights, team, limits).value();
    EXPECT_TRUE(decode(*allocating, batch.inputs, 7) == expected);
    if (GetParam() == ComputeType::bf16) continue;  // rounded more often
    Backend apart = harness.backend;
    apart.fused = false;
    auto separate = Decoder::create(apart, harness.weights, team, limits).value();
    for (const std::int64_t chunk : {1, 7}) EXPECT_TRUE(decode(*separate, batch.inputs, chunk) == expected) << chunk;
  }
}

TEST_P(DecoderOnEveryModel, NeighboursInTheBatchChangeNothing) {
  for (const NamedModel& model : tiny_models()) {
    SCOPED_TRACE(model.name);
    ModelHarness harness(model.config, {supported_kernels().front(), false}, GetParam(), 1, 80);
    const ReferenceBatch batch = random_reference_batch(model.config, 3, 20, 4);
    ThreadTeam team(2);
    const Decoder::Limits alone{.batch_tokens = 32, .context_tokens = 24, .sequences = 1, .all_logits = true};
    auto single = Decoder::create(harness.backend, harness.weights, team, alone).value();
    Logits expected[3];
    std::vector<std::int32_t> tokens[3];
    for (int s = 0; s < 3; ++s) {
      tokens[s] = tokens_of(batch, batch.spans[static_cast<std::size_t>(s)]);
      expected[s] = decode(*single, tokens[s], 32);
    }

    const Decoder::Limits together{.batch_tokens = 64, .context_tokens = 24, .sequences = 3, .all_logits = true};
    auto decoder = Decoder::create(harness.backend, harness.weights, team, together).value();
    KvCache::SequenceId id[3];
    for (auto& sequence : id) sequence = decoder->cache().add_sequence().value();
    // Sequence 0 in one piece of 13 and then one by one, 1 in pieces of 3, 2 one by one from the second round on.
    std::size_t at[3] = {0, 0, 0};
    for (int round = 0; at[0] < 20 || at[1] < 20 || at[2] < 20; ++round) {
      const std::size_t want[3] = {round == 0 ? 13U : 1U, 3U, round == 0 ? 0U : 1U};
      std::vector<SequenceTokens> entries;
      std::vector<std::pair<int, std::size_t>> rows;
      for (int s = 0; s < 3; ++s) {
        const std::size_t count = std::min(want[s], 20 - at[s]);
        if (count == 0) continue;
        entries.push_back({id[s], std::span(tokens[s]).subspan(at[s], count)});
        for (std::size_t i = 0; i < count; ++i) rows.emplace_back(s, at[s] + i);
        at[s] += count;
      }
      ASSERT_TRUE(decoder->forward(entries));
      for (std::size_t row = 0; row < rows.size(); ++row) {
        const std::span<const float> logits = decoder->logits(static_cast<std::int64_t>(row));
        const std::vector<float>& want_logits = expected[rows[row].first][rows[row].second];
        ASSERT_TRUE(std::equal(logits.begin(), logits.end(), want_logits.begin())) << "round " << round << " row " << row;
      }
    }
  }
}

// The trainer's losses and those computed from the decoder's logits are the same bits: one model, two ways through it.
TEST_P(DecoderOnEveryModel, LogProbabilitiesEqualTheTrainersBitForBit) {
  for (const NamedModel& model : tiny_models()) {
    SCOPED_TRACE(model.name);
    ModelHarness harness(model.config, {supported_kernels().front(), false}, GetParam(), 2, 80);
    const ReferenceBatch reference = random_reference_batch(model.config, 3, 24, 9);
    const HarnessBatch batch(reference);
    harness.evaluate(batch.view());
    const std::vector<float> losses(harness.row_losses().begin(), harness.row_losses().end());

    ThreadTeam team(1);
    const Decoder::Limits limits{.batch_tokens = 5, .context_tokens = 24, .sequences = 1, .all_logits = true};
    auto decoder = Decoder::create(harness.backend, harness.weights, team, limits).value();
    for (const ReferenceSpan& span : reference.spans) {
      const Logits logits = decode(*decoder, tokens_of(reference, span), 5);
      for (std::int64_t i = 0; i < span.rows; ++i) {
        const auto row = static_cast<std::size_t>(span.first_row + i);
        // The decoder's logits are capped already, so no cap here; the trainer's kernel caps on the way.
        const std::vector<float>& l = logits[static_cast<std::size_t>(i)];
        const float loss =
            test::row_loss(*harness.backend.kernels->elementwise, l.data(), model.config.vocab, reference.targets[row]);
        if (model.config.final_soft_cap > 0.0F) {
          EXPECT_NEAR(loss, losses[row], 1e-5);
        } else {
          EXPECT_EQ(loss, losses[row]) << row;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, DecoderOnEveryModel, testing::Values(ComputeType::f32, ComputeType::bf16),
                         [](const auto& test) { return test.param == ComputeType::f32 ? "f32" : "bf16"; });

TEST(Decoder, LogitsEqualTheReference) {
  for (const NamedModel& model : tiny_models()) {
    SCOPED_TRACE(model.name);
    ModelHarness harness(model.config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
    const ReferenceBatch batch = random_reference_batch(model.config, 1, 24, 3);
    const std::vector<double> parameters(harness.parameters.begin(), harness.parameters.end());
    const std::vector<double> expected = reference_logits(model.config, harness.layout, parameters, batch);
    ThreadTeam team(1);
    const Decoder::Limits limits{.batch_tokens = 24, .context_tokens = 24, .sequences = 1, .all_logits = true};
    auto decoder = Decoder::create(harness.backend, harness.weights, team, limits).value();
    const Logits logits = decode(*decoder, batch.inputs, 24);
    for (std::size_t row = 0; row < logits.size(); ++row) {
      for (std::size_t i = 0; i < logits[row].size(); ++i) {
        ASSERT_NEAR(logits[row][i], expected[row * logits[row].size() + i], 1e-4);
      }
    }
  }
}

TEST(Decoder, RefusesWhatDoesNotFitAndLeavesTheCacheAsItWas) {
  const ModelConfig config = tiny_models()[1].config;
  ModelHarness harness(config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
  ThreadTeam team(1);
  auto decoder = Decoder::create(harness.backend, harness.weights, team, {.batch_tokens = 16, .context_tokens = 20}).value();
  const KvCache::SequenceId sequence = decoder->cache().add_sequence().value();
  const std::vector<std::int32_t> tokens(16, 1);
  const auto feed = [&](std::size_t count) {
    const SequenceTokens entry{sequence, std::span(tokens).first(count)};
    return decoder->forward(std::span(&entry, 1));
  };
  ASSERT_TRUE(feed(16));
  EXPECT_FALSE(feed(5)) << "the context has 20 tokens";
  EXPECT_EQ(decoder->cache().length(sequence), 16);
  ASSERT_TRUE(feed(4));
  EXPECT_FALSE(feed(1));
  EXPECT_FALSE(feed(0));
  const std::vector<std::int32_t> outside{static_cast<std::int32_t>(config.vocab)};
  const SequenceTokens bad{sequence, outside};
  EXPECT_FALSE(decoder->forward(std::span(&bad, 1)));
  EXPECT_EQ(decoder->cache().length(sequence), 20);
  EXPECT_FALSE(Decoder::create(harness.backend, harness.weights, team, {.context_tokens = config.context + 1}))
      << "the RoPE table ends at the model's context";
}

TEST(Decoder, RefusesACacheThatMemoryCannotHold) {
  ModelHarness harness(tiny_models()[1].config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
  ThreadTeam team(1);
  const auto decoder = Decoder::create(harness.backend, harness.weights, team,
                                       {.batch_tokens = 16, .context_tokens = 20, .cache_tokens = std::int64_t{1} << 36});
  ASSERT_FALSE(decoder);
  EXPECT_EQ(decoder.error().code, ErrorCode::no_memory);
  for (const char* part : {"a context of 20 tokens needs ", "KV cache in f32", "may use ", "--context", "--kv-type"}) {
    EXPECT_NE(decoder.error().message.find(part), std::string::npos) << decoder.error().message;
  }
}

}  // namespace
}  // namespace quern
