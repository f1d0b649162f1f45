// quern bench train as a user runs it: rows, sweeps, JSON that adds up, mistakes.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tools/run_quern.hpp"

namespace quern {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class CliBench : public testing::Test {
 protected:
  CliBench() : folder_("quern_cli_bench") {
    yaml_ = folder_.write("tiny.yaml", "run: {dir: " + folder_.file("run") +
                                           "}\ndata: {corpus: nowhere.h5}\n"
                                           "model: {vocab: 50, layers: 2, width: 32, heads: 2, context: 16}\n"
                                           "train: {batch: 4, dropout: 0.1}\nsystem: {threads: 2}\n");
  }
  [[nodiscard]] ProgramResult bench(const std::string& arguments) const {
    return run_quern("bench train " + yaml_ + " --rounds 3 --steps 2 " + arguments);
  }
  [[nodiscard]] nlohmann::json bench_json(const std::string& arguments) const {
    const ProgramResult result = bench(arguments + " --json");
    EXPECT_EQ(result.code, 0) << result.err;
    auto json = nlohmann::json::parse(result.out, nullptr, false);
    EXPECT_TRUE(json.is_array()) << result.out;
    return json;
  }
  void expect_refused(const std::string& arguments, const std::string& part) const {
    const ProgramResult result = bench(arguments);
    EXPECT_EQ(result.code, 2) << arguments << "\n" << result.out << result.err;
    EXPECT_TRUE(contains(result.err, part)) << arguments << ": " << result.err;
  }
  TestFolder folder_;
  std::string yaml_;
};

TEST_F(CliBench, FiguresAddUp) {
  const auto json = bench_json("");
  ASSERT_EQ(json.size(), 1U);
  const auto& row = json[0];
  EXPECT_EQ(row["run"], "tiny");
  EXPECT_EQ(row["tokens_per_step"], 4 * 16);
  EXPECT_EQ(row["threads"], 2);
  EXPECT_EQ(row["vocab"], 50);
  EXPECT_EQ(row["steps_per_round"], 2);
  EXPECT_EQ(row["tokens_per_second_of_rounds"].size(), 3U);
  EXPECT_EQ(row["register_peaks_gflops"].size(), 4U) << "before each round and after the last";
  const double tokens_per_second = row["tokens_per_second"].get<double>();
  EXPECT_GT(tokens_per_second, 0.0);
  EXPECT_NEAR(row["ms_per_step"].get<double>() * 1e-3 * tokens_per_second, 64.0, 1e-6);
  EXPECT_NEAR(row["gflops"].get<double>(), tokens_per_second * row["flops_per_token"].get<double>() * 1e-9, 1e-6);
  EXPECT_NEAR(row["register_peak_fraction"].get<double>() * row["register_peak_gflops"].get<double>(),
              row["gflops"].get<double>(), 1e-6);
  // 6 per matrix parameter (tied head included) and causal attention.
  EXPECT_EQ(row["flops_per_token"].get<double>(), 6.0 * (2 * (4 * 32 * 32 + 3 * 32 * 96) + 50 * 32) + 6.0 * 2 * 32 * 16);
  EXPECT_GT(row["peak_resident_bytes"].get<std::int64_t>(), row["plan_bytes"].get<std::int64_t>());
  EXPECT_NEAR(row["last_loss"].get<double>(), std::log(50.0), 1.0) << "random tokens cannot be learned";
  EXPECT_FALSE(std::filesystem::exists(folder_.file("run")));
}

TEST_F(CliBench, BothPrecisionsAndSweepsMakeRows) {
  const auto json = bench_json("--precision both --sweep train.batch=1,2 --sweep model.context=32,16 system.threads=1");
  ASSERT_EQ(json.size(), 4U);
  const char* const precisions[] = {"f32", "bf16", "f32", "bf16"};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(json[i]["precision"], precisions[i]);
    EXPECT_EQ(json[i]["threads"], 1);
    EXPECT_EQ(json[i]["batch"], i < 2 ? 1 : 2);
    EXPECT_EQ(json[i]["context"], i < 2 ? 32 : 16);
    EXPECT_EQ(json[i]["run"], i < 2 ? "tiny train.batch=1 model.context=32" : "tiny train.batch=2 model.context=16");
  }
  const auto threads = bench_json("--threads 3");
  EXPECT_EQ(threads[0]["threads"], 3);
}

TEST_F(CliBench, TableAndProfile) {
  const ProgramResult result = bench("--profile --precision f32");
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* part : {"| run | precision |", "| tiny | f32 | 64 |", "seed 1337", "profile of 6 steps on 2 threads",
                           "weight gradient", "optimizer"}) {
    EXPECT_TRUE(contains(result.out, part)) << part << "\n" << result.out;
  }
  const ProgramResult csv = bench("--precision f32 --csv");
  ASSERT_EQ(csv.code, 0) << csv.err;
  EXPECT_EQ(csv.out.rfind("run,precision,instruction set,threads,batch,context,tokens_per_step,rounds,", 0), 0U) << csv.out;
  EXPECT_TRUE(contains(csv.out, "\n\"tiny\",f32,")) << csv.out;
  EXPECT_EQ(std::count(csv.out.begin(), csv.out.end(), '\n'), 2) << csv.out;
  const auto profiled = bench_json("--profile"), plain = bench_json("");
  EXPECT_TRUE(profiled[0].contains("profile"));
  EXPECT_FALSE(plain[0].contains("profile"));
  EXPECT_EQ(profiled[0]["last_loss"], plain[0]["last_loss"]) << "recording changes no bit";
}

TEST_F(CliBench, TheSameSeedGivesTheSameLossAtAnyThreadCount) {
  const auto one = bench_json("--threads 1"), three = bench_json("--threads 3");
  EXPECT_EQ(one[0]["last_loss"], three[0]["last_loss"]);
  EXPECT_NE(one[0]["last_loss"], bench_json("--threads 1 train.seed=7")[0]["last_loss"]);
}

TEST_F(CliBench, WhatIsSwitchedOffChangesNoLoss) {
  const auto plain = bench_json("--precision f32");
  EXPECT_EQ(plain[0]["fused"], true);
  EXPECT_EQ(plain[0]["arena"], true);
  const auto off = bench_json("--precision f32 --no-fused --no-arena");
  EXPECT_EQ(off[0]["fused"], false);
  EXPECT_EQ(off[0]["arena"], false);
  EXPECT_EQ(off[0]["last_loss"], plain[0]["last_loss"]);
  EXPECT_GT(off[0]["plan_bytes"].get<std::int64_t>(), plain[0]["plan_bytes"].get<std::int64_t>())
      << "buffers that are apart share no memory";
}

TEST_F(CliBench, MistakesAreOneSentence) {
  expect_refused("model.vocab=0", "key `model.vocab`: is 0");
  expect_refused("model.heads=3", "model.heads");
  expect_refused("--sweep train.batch", "--sweep: expected KEY=VALUE,VALUE,...");
  expect_refused("--sweep train.batch=1,,2", "--sweep: expected KEY=VALUE,VALUE,...");
  expect_refused("--sweep train.batch=1,2 --sweep model.context=8", "lists advance together");
  expect_refused("--sweep train.bacth=1,2", "unknown; nearest known key: `train.batch`");
  expect_refused("--precision f64", "--precision");
  expect_refused(folder_.file("missing.yaml"), "missing.yaml");
  EXPECT_EQ(run_quern("bench").code, 2);
  const ProgramResult large = bench("system.memory_limit_mib=1 train.batch=64 model.context=512");
  EXPECT_EQ(large.code, 1) << "the machine refuses";
  EXPECT_TRUE(contains(large.err, "this run needs")) << large.err;
}

}  // namespace
}  // namespace quern
