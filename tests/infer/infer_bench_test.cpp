// Counting of what inference costs, against loops that count one by one; rows, rounds, stopping and mistakes of the
// benchmark.
#include "infer/infer_bench.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "infer/infer_bench_costs.hpp"
#include "math/block_formats.hpp"
#include "math/kv_rows.hpp"
#include "support/model_harness.hpp"

namespace quern {
namespace {

double counted_keys(const ModelConfig& config, std::int64_t first, std::int64_t tokens) {
  double keys = 0.0;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    for (std::int64_t position = first; position < first + tokens; ++position) {
      for (std::int64_t key = 0; key <= position; ++key) {
        if (!config.windowed(layer) || key > position - config.window) keys += 1.0;
      }
    }
  }
  return keys;
}

TEST(InferBenchCosts, KeysAreThoseThatAttentionSees) {
  ModelConfig config{.vocab = 50, .layers = 4};
  for (const std::int64_t window : {0, 1, 7, 64}) {
    for (const std::int64_t period : {1, 2}) {
      config.window = window;
      config.window_period = period;
      for (const std::int64_t first : {0, 1, 6, 7, 8, 100}) {
        for (const std::int64_t tokens : {0, 1, 2, 9, 70}) {
          EXPECT_EQ(visible_keys(config, first, tokens), counted_keys(config, first, tokens))
              << window << " " << period << " " << first << " " << tokens;
        }
      }
    }
  }
}

TEST(InferBenchCosts, FlopsAreAThirdOfTrainings) {
  for (const NamedModel& model : tiny_models()) {
    SCOPED_TRACE(model.name);
    const ModelConfig& c = model.config;
    if (c.window == 0) {
      // Training counts T / 2 keys a token, in the limit of long texts; (T + 1) / 2 is exact.
      const double training = train_flops_per_token(c, 25) * 24.0;
      EXPECT_NEAR(3.0 * forward_flops(c, 0, 24, 24), training, 1e-9 * training);
    }
    const double head = 2.0 * static_cast<double>(c.vocab * c.width);
    EXPECT_EQ(forward_flops(c, 0, 24, 24) - forward_flops(c, 0, 24, 1), 23.0 * head);
    // A text costs the same in pieces.
    EXPECT_DOUBLE_EQ(forward_flops(c, 0, 24, 1), forward_flops(c, 0, 10, 0) + forward_flops(c, 10, 14, 1));
  }
}

TEST(InferBenchCosts, BytesOfKeysAndValues) {
  ModelConfig config{.layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 64};
  for (const ElementType type : kv_types()) {
    const double both = 2.0 * 2.0 * static_cast<double>(kv_row_bytes(type, 64));
    EXPECT_EQ(kv_bytes_read(config, type, 10, 1), both * 3 * 11);
    EXPECT_EQ(kv_bytes_read(config, type, 10, 2), both * 3 * (11 + 12));
  }
}

TEST(InferBenchCosts, SeveralSequencesMeetMoreExperts) {
  bool met_experts = false;
  for (const NamedModel& model : tiny_models()) {
    SCOPED_TRACE(model.name);
    const ModelHarness harness(model.config, {supported_kernels().front(), false}, ComputeType::f32, 1, 16);
    const ModelConfig& c = model.config;
    const double row = static_cast<double>(bytes_of(harness.weights.embedding_table.type, c.width).value());
    EXPECT_EQ(step_weight_bytes(harness.weights, 1000, 1), 1000.0);
    const double dense = 1000.0 + 2 * row;
    if (c.experts == 0) {
      EXPECT_EQ(step_weight_bytes(harness.weights, 1000, 3), dense);
      continue;
    }
    met_experts = true;
    // All experts of all layers are three matrices each; k of E count already.
    const double elements = 3.0 * static_cast<double>(c.layers * c.experts * c.mlp_width * c.width);
    const double element =
        static_cast<double>(bytes_of(harness.weights.layers[0].expert_in.whole().type, 32).value()) / 32.0;
    const double all = elements * element;
    const double used = static_cast<double>(c.experts_used) / static_cast<double>(c.experts);
    EXPECT_NEAR(step_weight_bytes(harness.weights, 1000, 3) - dense, all * (1.0 - std::pow(1.0 - used, 3.0) - used),
                1e-9 * all);
    EXPECT_NEAR(step_weight_bytes(harness.weights, 1000, 4096) - 1000.0 - 4095 * row, all * (1.0 - used), 1e-6 * all);
  }
  EXPECT_TRUE(met_experts);
}

/// A decoder with room for what the options ask.
struct Bench {
  Bench(const ModelConfig& config, const InferBenchOptions& chosen)
      : options(chosen),
        harness(config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80),
        team(2),
        decoder(Decoder::create(harness.backend, harness.weights, team,
                                {.batch_tokens = 8,
                                 .context_tokens = options.context_tokens(),
                                 .sequences = options.most_sequences(),
                                 .cache_tokens = options.cache_tokens()})
                    .value()) {}
  /// Without measuring this machine, unless the watcher does.
  Result<InferBench> run(InferBenchWatcher watcher = {}) {
    if (!watcher.machine) watcher.machine = [](bool) { return MachineRates{.read_bandwidth = 1e9, .f32_flops = 1e9}; };
    return bench_inference(*decoder, harness.backend, team, 1000, options, watcher);
  }
  InferBenchOptions options;
  ModelHarness harness;
  ThreadTeam team;
  std::unique_ptr<Decoder> decoder;
};

TEST(InferBench, HasARowForEachLengthDepthAndNumberOfSequences) {
  const std::vector<NamedModel> all = tiny_models();
  const auto windowed = std::find_if(all.begin(), all.end(), [](const auto& m) { return m.config.window > 0; });
  const auto experts = std::find_if(all.begin(), all.end(), [](const auto& m) { return m.config.experts > 0; });
  ASSERT_TRUE(windowed != all.end() && experts != all.end());
  for (const NamedModel& model : {all.front(), *windowed, *experts}) {
    SCOPED_TRACE(model.name);
    Bench bench(model.config,
                {.prompts = {1, 20}, .depths = {0, 13}, .sequences = {1, 3}, .decode_tokens = 4, .warmup = 1, .rounds = 2});
    const std::int64_t room = bench.decoder->cache().free_tokens();
    std::vector<InferBenchRow> seen;
    std::string last_stage;
    std::int64_t last = 0;
    const auto result = bench.run({.progress =
                                       [&](std::string_view stage, std::int64_t done, std::int64_t total) {
                                         EXPECT_TRUE(stage != last_stage || done >= last);
                                         EXPECT_LE(done, total);
                                         last_stage = stage;
                                         last = done;
                                       },
                                   .row = [&](const InferBenchRow& row) { seen.push_back(row); }});
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_FALSE(result->stopped);
    EXPECT_EQ(last_stage, "decode of 3 at 13");
    ASSERT_EQ(result->rows.size(), 6U);
    ASSERT_EQ(seen.size(), 6U);
    const std::int64_t tokens[] = {1, 20, 4, 12, 4, 12}, steps[] = {1, 3, 4, 4, 4, 4}, depths[] = {0, 0, 0, 0, 13, 13};
    for (std::size_t i = 0; i < 6; ++i) {
      const InferBenchRow& row = result->rows[i];
      EXPECT_EQ(row.kind, i < 2 ? InferBenchKind::prefill : InferBenchKind::decode);
      EXPECT_EQ(row.round_tokens, tokens[i]);
      EXPECT_EQ(row.steps, steps[i]);
      EXPECT_EQ(row.depth, depths[i]);
      EXPECT_EQ(row.sequences, i < 2 || i % 2 == 0 ? 1 : 3);
      ASSERT_EQ(row.rounds.size(), 2U);
      for (const InferBenchRound& round : row.rounds) {
        EXPECT_GT(round.seconds, 0.0);
        EXPECT_GT(round.machine.read_bandwidth, 1e8);
        EXPECT_GT(round.machine.f32_flops, 1e8);
      }
      EXPECT_EQ(seen[i].tokens_per_second(), row.tokens_per_second());
      EXPECT_LE(row.slowest(), row.tokens_per_second());
      EXPECT_LE(row.tokens_per_second(), row.fastest());
      EXPECT_EQ(row.kv_bytes > 0.0, i >= 2);
    }
    EXPECT_EQ(bench.decoder->cache().free_tokens(), room) << "the cache is empty again";
    // The same figures by hand.
    const InferBenchRow& row = result->rows[5];
    const ModelConfig& c = model.config;
    EXPECT_EQ(row.weight_bytes, step_weight_bytes(bench.harness.weights, 1000, 3));
    EXPECT_DOUBLE_EQ(row.kv_bytes, 3.0 * kv_bytes_read(c, ElementType::f32, 13, 4) / 4.0);
    EXPECT_DOUBLE_EQ(row.flops, 3.0 * forward_flops(c, 13, 4, 4));
    EXPECT_DOUBLE_EQ(result->rows[1].flops, forward_flops(c, 0, 20, 1));
  }
}

TEST(InferBench, RoundsAreHeldAgainstTheMachineAroundThem) {
  Bench bench(tiny_models().front().config, {.prompts = {4}, .depths = {}, .warmup = 2, .rounds = 3});
  double looks = 0.0;
  const auto result = bench.run({.machine = [&](bool peaks) {
    EXPECT_TRUE(peaks) << "of a round of milliseconds the memory is not measured inside";
    looks += 2.0;
    return MachineRates{looks, 10 * looks, 100 * looks, 1000 * looks};
  }});
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(looks, 2.0 * 4) << "before the first round and after each";
  ASSERT_EQ(result->rows.size(), 1U);
  ASSERT_EQ(result->rows[0].rounds.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    const MachineRates& machine = result->rows[0].rounds[i].machine;
    const double mean = 2.0 * static_cast<double>(i) + 3.0;
    EXPECT_EQ(machine.read_bandwidth, mean);
    EXPECT_EQ(machine.f32_flops, 10 * mean);
    EXPECT_EQ(machine.bf16_tile_flops, 100 * mean);
    EXPECT_EQ(machine.int8_tile_ops, 1000 * mean);
  }
}

TEST(InferBench, MeasuresThisMachine) {
  Bench bench(tiny_models().front().config, {.prompts = {4}, .decode_tokens = 0, .warmup = 0, .rounds = 1});
  const auto result = bench_inference(*bench.decoder, bench.harness.backend, bench.team, 1000, bench.options);
  ASSERT_TRUE(result) << result.error().message;
  const MachineRates machine = result->rows.at(0).machine();
  EXPECT_GT(machine.read_bandwidth, 1e8);
  EXPECT_GT(machine.f32_flops, 1e8);
  EXPECT_EQ(machine.bf16_tile_flops > 0.0, bench.harness.backend.kernels->isa == Isa::amx);
  EXPECT_EQ(machine.int8_tile_ops > 0.0, bench.harness.backend.kernels->isa == Isa::amx);
}

TEST(InferBench, SharesAreMediansOfRounds) {
  InferBenchRow row{.kind = InferBenchKind::decode, .round_tokens = 10, .steps = 10, .flops = 60.0};
  row.weight_bytes = 90.0;
  row.kv_bytes = 10.0;
  row.rounds = {{1.0, {2000.0, 100.0, 0.0, 0.0}}, {2.0, {1000.0, 40.0, 0.0, 0.0}}, {4.0, {500.0, 10.0, 0.0, 0.0}}};
  EXPECT_EQ(row.tokens_per_second(), 5.0);
  EXPECT_EQ(row.slowest(), 2.5);
  EXPECT_EQ(row.fastest(), 10.0);
  EXPECT_EQ(row.bytes_per_second(), 500.0);
  EXPECT_EQ(row.bandwidth_share(), 0.5) << "of every round";
  EXPECT_EQ(row.f32_share(), 0.75) << "of 0.6, 0.75 and 1.5";
  EXPECT_EQ(row.bf16_tile_share(), 0.0) << "there are no tiles";
  EXPECT_EQ(row.machine().read_bandwidth, 1000.0);
  row.rounds.pop_back();
  EXPECT_EQ(row.tokens_per_second(), 7.5) << "the mean of the two in the middle";
}

TEST(InferBench, StopsBetweenStepsAndKeepsRowsWithARound) {
  const InferBenchOptions options{.prompts = {8}, .depths = {8}, .decode_tokens = 4, .warmup = 0, .rounds = 3};
  std::size_t rows = 0, whole_rounds = 0;
  // Steps that a whole benchmark takes: 3 of prefill; 1 to fill and 3 rounds of 4.
  for (int steps = 0; steps <= 3 + 1 + 12; ++steps) {
    Bench bench(tiny_models().front().config, options);
    int computed = 0;
    const auto result =
        bench.run({.progress = [&](std::string_view, std::int64_t done, std::int64_t) { computed += done > 0; },
                   .stop = [&] { return computed >= steps; }});
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_TRUE(result->stopped || computed == 16);
    std::size_t rounds = 0;
    for (const InferBenchRow& row : result->rows) {
      EXPECT_FALSE(row.rounds.empty());
      rounds += row.rounds.size();
    }
    EXPECT_GE(result->rows.size(), rows);
    EXPECT_GE(rounds, whole_rounds);
    rows = result->rows.size();
    whole_rounds = rounds;
    EXPECT_EQ(bench.decoder->cache().add_sequence().has_value(), true) << "sequences are given back";
  }
  EXPECT_EQ(rows, 2U);
}

TEST(InferBench, RefusesOptionsOutOfRange) {
  const auto refused = [](const InferBenchOptions& options, const std::string& part) {
    const auto result = check_infer_bench(options);
    ASSERT_FALSE(result) << part;
    EXPECT_EQ(result.error().code, ErrorCode::bad_input);
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
  };
  EXPECT_TRUE(check_infer_bench({}));
  EXPECT_TRUE(check_infer_bench({.prompts = {}, .decode_tokens = 1}));
  refused({.prompts = {0}}, "length of a prompt: expected 1 to");
  refused({.prompts = {5, kMaxBenchTokens + 1}}, "length of a prompt");
  refused({.depths = {-1}}, "depth");
  refused({.sequences = {0}}, "sequences");
  refused({.decode_tokens = -1}, "tokens to decode");
  refused({.rounds = 0}, "rounds");
  refused({.warmup = -1}, "warm-up");
  refused({.prompts = {}, .decode_tokens = 0}, "nothing to measure");
  refused({.prompts = {}, .depths = {}}, "nothing to measure");
}

TEST(InferBench, SaysWhatItNeeds) {
  const InferBenchOptions options{.prompts = {100}, .depths = {0, 70}, .sequences = {1, 4}, .decode_tokens = 10};
  EXPECT_EQ(options.context_tokens(), 100);
  EXPECT_EQ(options.cache_tokens(), 4 * ((80 + kPageTokens - 1) / kPageTokens * kPageTokens));
  EXPECT_EQ(options.most_sequences(), 4);
  const InferBenchOptions prefill{.prompts = {100}, .sequences = {4}, .decode_tokens = 0};
  EXPECT_FALSE(prefill.decodes());
  EXPECT_EQ(prefill.most_sequences(), 1);
  EXPECT_EQ(prefill.cache_tokens(), (100 + kPageTokens - 1) / kPageTokens * kPageTokens);
}

TEST(InferBench, AKeptCacheIsFilledOnce) {
  const InferBenchOptions options{
      .prompts = {}, .depths = {0, 20}, .sequences = {1, 2}, .decode_tokens = 3, .warmup = 0, .rounds = 1};
  const NamedModel model = tiny_models().front();
  const ModelHarness harness(model.config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
  ThreadTeam team(1);
  auto decoder = Decoder::create(harness.backend, harness.weights, team,
                                 {.batch_tokens = 8,
                                  .context_tokens = options.context_tokens(),
                                  .sequences = options.kept_sequences(),
                                  .cache_tokens = options.kept_cache_tokens()});
  ASSERT_TRUE(decoder) << decoder.error().message;
  InferBenchRoom room;
  const auto tokens_of_a_call = [&] {
    std::int64_t tokens = 0, row = 0;
    const auto bench = bench_inference(**decoder, harness.backend, team, 1000, options,
                                       {.progress =
                                            [&](std::string_view, std::int64_t done, std::int64_t) {
                                              tokens += done == 0 ? 0 : done - row;
                                              row = done;
                                            },
                                        .machine = [](bool) { return MachineRates{}; }},
                                       &room);
    EXPECT_TRUE(bench) << bench.error().message;
    EXPECT_EQ(bench ? bench->rows.size() : 0, 4U);
    return tokens;
  };
  EXPECT_EQ(tokens_of_a_call(), (1 + 2) * 20 + 2 * (1 + 2) * 3);
  EXPECT_EQ(tokens_of_a_call(), 2 * (1 + 2) * 3) << "only what is timed";
  ASSERT_EQ(room.rows.size(), 4U);
  EXPECT_EQ(room.rows[3].size(), 2U);
  EXPECT_EQ((*decoder)->cache().length(room.rows[3][1]), 23);
}

}  // namespace
}  // namespace quern
