// quern bench sweep as a user runs it: every combination has a row, figures add up, verdicts follow from intervals.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "math/machine_topology.hpp"
#include "tools/run_quern.hpp"
#include "tools/tiny_run.hpp"

namespace quern {
namespace {

class CliBenchSweep : public WithTinyRun {
 protected:
  static nlohmann::json sweep_json(const std::string& arguments) {
    const ProgramResult result = run_quern("bench sweep " + arguments + " --json");
    EXPECT_EQ(result.code, 0) << result.err;
    auto json = nlohmann::json::parse(result.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << result.out;
    return json;
  }

  static std::string yaml() {
    return folder().write("bench.yaml", "run: {dir: " + folder().file("nowhere") +
                                            "}\ndata: {corpus: nowhere.h5}\n"
                                            "model: {vocab: 50, layers: 1, width: 32, heads: 2, context: 16}\n"
                                            "train: {batch: 1}\nsystem: {threads: 1}\n");
  }

  /// The verdicts are what the rows' intervals say, held against the highest median at the same work.
  static void expect_verdicts(const nlohmann::json& rows, std::size_t rounds) {
    for (const auto& row : rows) {
      SCOPED_TRACE(row.dump());
      auto rates = row["tokens_per_second_of_rounds"].get<std::vector<double>>();
      ASSERT_EQ(rates.size(), rounds);
      std::sort(rates.begin(), rates.end());
      const double median = 0.5 * (rates[(rounds - 1) / 2] + rates[rounds / 2]);
      const auto& rate = row["tokens_per_second"];
      EXPECT_NEAR(rate["median"].get<double>(), median, 1e-9 * median);
      const nlohmann::json* best = nullptr;
      double next_high = 0.0;
      for (const auto& other : rows) {
        if (other["kind"] != row["kind"] || other["work"] != row["work"]) continue;
        if (best == nullptr || other["tokens_per_second"]["median"] > (*best)["tokens_per_second"]["median"]) best = &other;
        if (&other != &row) next_high = std::max(next_high, other["tokens_per_second"]["high"].get<double>());
      }
      ASSERT_NE(best, nullptr);
      const auto& top = (*best)["tokens_per_second"];
      EXPECT_NEAR(row["of_highest"]["ratio"].get<double>(), median / top["median"].get<double>(), 1e-9);
      if (rounds < 6) {
        EXPECT_EQ(row["verdict"], "too few rounds");
      } else if (rate["low"] > next_high) {
        EXPECT_EQ(row["verdict"], "fastest");
      } else {
        EXPECT_EQ(row["verdict"], rate["high"] < top["low"] ? "slower" : "among the fastest");
      }
    }
  }
};

TEST_F(CliBenchSweep, EveryCombinationOfInferenceHasARow) {
  const auto json = sweep_json("infer " + model() +
                               " --threads 1,2 --affinity none,spread --isa portable --kv-type f32,f16 --prompt 16 --depth "
                               "0,8 --sequences 1,2 --decode 2 --warmup 1 --rounds 6");
  EXPECT_EQ(json["bench"], "sweep");
  EXPECT_EQ(json["what"], "infer");
  EXPECT_EQ(json["interrupted"], false);
  ASSERT_EQ(json["rows"].size(), 2U * 2U * 2U * (1U + 4U));
  std::set<std::string> settings;
  for (const auto& row : json["rows"]) {
    settings.insert(row["kind"].get<std::string>() + row["settings"].dump());
    EXPECT_EQ(row["settings"]["instruction set"], "portable");
  }
  EXPECT_EQ(settings.size(), json["rows"].size());
  expect_verdicts(json["rows"], 6);
}

TEST_F(CliBenchSweep, MemoryGrowsWithTheContextByTheCachesBytes) {
  const auto json = sweep_json("infer " + model() +
                               " --threads 1 --kv-type f32,f16 --prompt 0 --depth 0,40 --decode 1 --warmup 0 --rounds 1");
  ASSERT_EQ(json["rows"].size(), 4U);
  std::vector<std::int64_t> cache, memory;
  for (const auto& row : json["rows"]) {
    cache.push_back(row["cache_bytes"].get<std::int64_t>());
    memory.push_back(row["memory_bytes"].get<std::int64_t>());
  }
  // Keys and values of two layers with 32 elements a token; a page holds whole tokens.
  EXPECT_EQ(cache[0] % (2 * 2 * 32 * 4), 0);
  EXPECT_GE(cache[1], 41 * 2 * 2 * 32 * 4);
  EXPECT_GE(cache[1], cache[0]);
  EXPECT_EQ(cache[2] * 2, cache[0]) << "f16 is half of f32";
  EXPECT_EQ(memory[0] - memory[2], cache[0] - cache[2]) << "the rest is the same";
}

TEST_F(CliBenchSweep, OneNodeIsSaidPlainlyAndMeasuredOnce) {
  if (read_topology().value().numa_nodes.size() != 1) GTEST_SKIP() << "this machine has several NUMA nodes";
  const auto json =
      sweep_json("infer " + model() + " --numa local,interleave --prompt 0 --decode 1 --warmup 0 --rounds 1 --threads 1");
  EXPECT_EQ(json["rows"].size(), 1U);
  EXPECT_EQ(json["remarks"], "NUMA: this machine has one NUMA node: local and interleave are the same; measured once.\n");
}

TEST_F(CliBenchSweep, TrainingSweepsThreadsBatchAndContext) {
  const auto json =
      sweep_json("train " + yaml() + " --threads 1,2 --affinity spread --batch 1,4 --context 8,16 --steps 2 --rounds 2");
  EXPECT_EQ(json["what"], "train");
  ASSERT_EQ(json["rows"].size(), 8U);
  expect_verdicts(json["rows"], 2);
  EXPECT_EQ(json["rows"][7]["settings"]["threads"], "2");
  EXPECT_EQ(json["rows"][7]["settings"]["affinity"], "spread");
  EXPECT_GT(json["rows"][7]["memory_bytes"], json["rows"][0]["memory_bytes"]);
  EXPECT_EQ(json["rows"][7]["settings"]["batch"], "4");
  EXPECT_EQ(json["rows"][7]["settings"]["context"], "16");
  const ProgramResult table = run_quern("bench sweep train " + yaml() + " --batch 1,4 --steps 1 --rounds 1");
  ASSERT_EQ(table.code, 0) << table.err;
  EXPECT_TRUE(contains(table.out, "Everywhere: precision ")) << table.out;
  EXPECT_TRUE(contains(table.out, "| | batch | tokens/s |")) << "only what differs has a column\n" << table.out;
  EXPECT_TRUE(contains(table.out, "\n| train | 4 | ")) << table.out;
  EXPECT_TRUE(contains(table.out, " | too few rounds | ")) << "one round has no interval\n" << table.out;
}

TEST_F(CliBenchSweep, CsvHasEverySettingOfEveryRow) {
  const ProgramResult csv =
      run_quern("bench sweep infer " + model() +
                " --prompt 0 --decode 1 --rounds 1 --warmup 0 --threads 1 --isa portable --kv-type f16 --csv");
  ASSERT_EQ(csv.code, 0) << csv.err;
  EXPECT_EQ(csv.out.substr(0, csv.out.find('\n')),
            "kind,type,instruction set,threads,affinity,NUMA,huge pages,weights,task bytes,block rows,KV "
            "type,batch,prompt,depth,sequences,rounds,"
            "tokens_per_second,low,high,coverage,spread,of_highest,of_highest_low,of_highest_high,verdict,memory_bytes,"
            "cache_bytes");
  EXPECT_TRUE(contains(csv.out, "\ndecode,,portable,1,none,local,,,65536,0,f16,512,,0,1,1,")) << csv.out;
  EXPECT_TRUE(contains(csv.out, ",1,1,1,alone,")) << csv.out;
}

TEST_F(CliBenchSweep, AnInterruptKeepsWhatWasMeasured) {
  for (const std::string& what : {"infer " + model() + " --prompt 32 --depth 32 --decode 24 --sequences 8 --kv-type f32,f16",
                                  "train " + yaml() + " --batch 1,2 --steps 1"}) {
    const ProgramResult result =
        run_shell("timeout --foreground --preserve-status -s INT 0.5 " QUERN_BINARY " bench sweep " + what +
                  " --warmup 0 --rounds 10000 --json");
    EXPECT_EQ(result.code, 130) << result.err;
    const auto json = nlohmann::json::parse(result.out, nullptr, false);
    ASSERT_TRUE(json.is_object()) << result.out;
    EXPECT_EQ(json["interrupted"], true);
    ASSERT_GE(json["rows"].size(), 1U);
    EXPECT_GE(json["rows"][0]["tokens_per_second_of_rounds"].size(), 1U);
    EXPECT_TRUE(contains(result.err, "quern: interrupted with 0 of ")) << result.err;
  }
}

TEST_F(CliBenchSweep, MistakesGetASentence) {
  expect_refused("bench sweep infer", "expected a MODEL or a --shape");
  expect_refused("bench sweep infer " + model() + " --type q8_0", "--type is for --shape");
  expect_refused("bench sweep infer " + model() + " --isa sse9", "sse9");
  expect_refused("bench sweep infer " + model() + " --depth -1", "--depth: Value -1 not in range");
  expect_refused("bench sweep infer --shape llama9 --type q8_0", "there is no `llama9`");
  expect_refused("bench sweep infer --shape llama2-7b", "expected a --type too");
  expect_refused("bench sweep infer " + folder().file("absent.gguf"), "absent.gguf");
  expect_refused("bench sweep train " + folder().file("absent.yaml"), "absent.yaml");
  EXPECT_EQ(run_quern("bench sweep infer " + model() + " --threads x").code, 2);
  EXPECT_EQ(run_quern("bench sweep").code, 2);
}

}  // namespace
}  // namespace quern
