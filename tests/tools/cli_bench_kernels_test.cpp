// quern bench kernels and quern bench compare as a user runs them.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/run_quern.hpp"

namespace quern {
namespace {

using Json = nlohmann::json;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

constexpr const char* kQuick = "bench kernels --filter softmax --warmup 0 --repeats 2 --threads 1";

TEST(CliBenchKernels, PrintsATableJsonAndCsv) {
  const ProgramResult table = run_quern(kQuick);
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_TRUE(contains(table.out, "| kernel | time |")) << table.out;
  EXPECT_TRUE(contains(table.out, "| softmax/")) << table.out;
  EXPECT_TRUE(contains(table.out, "ounts of one call") || contains(table.out, "Hardware counters: ")) << table.out;
  const ProgramResult result = run_quern(std::string(kQuick) + " --json");
  const Json json = Json::parse(result.out, nullptr, false);
  ASSERT_TRUE(json.is_object()) << result.out << result.err;
  ASSERT_EQ(json["rows"].size(), 1U);
  EXPECT_EQ(json["rows"][0]["seconds"]["count"], 2);
  EXPECT_EQ(json["threads"], 1);
  EXPECT_GT(json["rows"][0]["share"]["median"].get<double>(), 0.0);
  const ProgramResult csv = run_quern(std::string(kQuick) + " --csv");
  EXPECT_EQ(std::count(csv.out.begin(), csv.out.end(), '\n'), 2) << csv.out;
  const auto columns = [](const std::string& line) { return std::count(line.begin(), line.end(), ','); };
  const std::size_t end = csv.out.find('\n');
  EXPECT_EQ(columns(csv.out.substr(0, end)), columns(csv.out.substr(end)));
}

TEST(CliBenchKernels, ListsAndRefuses) {
  const ProgramResult list = run_quern("bench kernels --list");
  EXPECT_EQ(list.code, 0);
  EXPECT_TRUE(contains(list.out, "matmul/bf16/forward/512x2048x2048\n")) << list.out;
  EXPECT_EQ(run_quern("bench kernels --filter nothing_of_the_kind").code, 2);
  EXPECT_EQ(run_quern("bench kernels --json --csv").code, 2);
  EXPECT_EQ(run_quern("bench kernels --repeats 0").code, 2);
}

Json summary(double middle, std::int64_t count = 10) {
  return {{"count", count},
          {"median", middle},
          {"low", 0.99 * middle},
          {"high", 1.01 * middle},
          {"coverage", count < 6 ? 0.75 : 0.978},
          {"min", 0.9 * middle},
          {"max", 1.1 * middle},
          {"quartile_low", middle},
          {"quartile_high", middle}};
}

struct Kernel {
  std::string name;
  double seconds, share;
  std::int64_t count = 10;
};

std::string kernels_json(const std::vector<Kernel>& kernels, const std::string& isa = "amx", int threads = 2) {
  Json rows = Json::array();
  for (const Kernel& one : kernels) {
    rows.push_back(
        {{"name", one.name}, {"seconds", summary(one.seconds, one.count)}, {"share", summary(one.share, one.count)}});
  }
  return Json{{"bench", "kernels"}, {"instruction_set", isa}, {"threads", threads}, {"rows", rows}}.dump();
}

TEST(CliBenchCompare, JudgesSharesByTheirIntervals) {
  const TestFolder folder("cli_compare");
  const std::string before = folder.write("before.json", kernels_json({{"same", 1.0, 0.50},
                                                                       {"drift", 1.0, 0.50},
                                                                       {"faster", 1.0, 0.50},
                                                                       {"slower", 1.0, 0.50},
                                                                       {"regressed", 1.0, 0.50},
                                                                       {"few", 1.0, 0.50, 3},
                                                                       {"gone", 1.0, 0.50}}));
  const std::string after = folder.write("after.json", kernels_json({{"same", 1.005, 0.505},
                                                                     {"drift", 2.0, 0.50},  // the whole machine was slower
                                                                     {"faster", 0.8, 0.60},
                                                                     {"slower", 1.03, 0.485},
                                                                     {"regressed", 1.25, 0.40},
                                                                     {"few", 3.0, 0.10, 3},
                                                                     {"new", 1.0, 0.50}}));
  const ProgramResult result = run_quern("bench compare --json " + before + " " + after);
  EXPECT_EQ(result.code, 0) << result.err;
  const Json json = Json::parse(result.out, nullptr, false);
  ASSERT_TRUE(json.is_object()) << result.out;
  const std::vector<std::string> verdicts{"not told apart", "not told apart", "faster",
                                          "slower",         "regression",     "not told apart"};
  ASSERT_EQ(json["figures"].size(), verdicts.size());
  for (std::size_t i = 0; i < verdicts.size(); ++i) EXPECT_EQ(json["figures"][i]["verdict"], verdicts[i]) << i;
  EXPECT_EQ(json["figures"][5]["enough_repeats"], false);
  EXPECT_NEAR(json["figures"][1]["rate"]["ratio"].get<double>(), 0.5, 1e-9);
  EXPECT_EQ(json["regressions"], 1);
  EXPECT_EQ(json["missing"], Json::array({"gone"}));
  EXPECT_EQ(json["added"], Json::array({"new"}));
  const ProgramResult text = run_quern("bench compare " + before + " " + after);
  EXPECT_TRUE(contains(text.out, "| regressed | 0.800 [")) << text.out;
  EXPECT_TRUE(contains(text.out, "1 faster, 1 slower, 1 regressions, 3 not told apart")) << text.out;
}

TEST(CliBenchCompare, TheCheckFailsOnRegressionsAndOnWhatIsMissing) {
  const TestFolder folder("cli_compare");
  const std::string base = folder.write("base.json", kernels_json({{"a", 1.0, 0.5}, {"b", 1.0, 0.5}}));
  const auto check = [&](const std::string& name, const std::string& text, const std::string& more = "") {
    return run_quern("bench compare --check " + more + base + " " + folder.write(name, text)).code;
  };
  EXPECT_EQ(check("same.json", kernels_json({{"a", 1.0, 0.5}, {"b", 9.0, 0.5}})), 0);  // a slow day
  EXPECT_EQ(check("slower.json", kernels_json({{"a", 1.0, 0.5}, {"b", 1.0, 0.48}})), 0);
  EXPECT_EQ(check("slower.json", kernels_json({{"a", 1.0, 0.5}, {"b", 1.0, 0.48}}), "--margin 1 "), 1);
  EXPECT_EQ(check("regressed.json", kernels_json({{"a", 1.0, 0.5}, {"b", 1.0, 0.4}})), 1);
  EXPECT_EQ(check("missing.json", kernels_json({{"a", 1.0, 0.5}})), 1);
  EXPECT_EQ(check("isa.json", kernels_json({{"a", 1.0, 0.5}, {"b", 1.0, 0.5}}, "avx2")), 2);
  EXPECT_EQ(check("threads.json", kernels_json({{"a", 1.0, 0.5}, {"b", 1.0, 0.5}}, "amx", 4)), 2);
}

Json round(double tokens, double memory) {
  return {{"tokens_per_second", tokens},
          {"machine", {{"memory_bytes_per_second", memory}, {"f32_flops", 1e11}, {"bf16_tile_flops", 0.0}}}};
}

std::string infer_json(double tokens, double memory) {
  Json rounds = Json::array();
  for (int i = 0; i < 6; ++i) rounds.push_back(round(tokens, memory));
  Json decode = {{"kind", "decode"}, {"depth", 0}, {"sequences", 8}, {"tokens", 64}, {"rounds", rounds}};
  Json prefill = {{"kind", "prefill"}, {"tokens", 512}, {"rounds", rounds}};
  return Json{{"isa", "amx"}, {"threads", 2}, {"rows", Json::array({prefill, decode})}}.dump();
}

TEST(CliBenchCompare, ReadsInferenceAndTraining) {
  const TestFolder folder("cli_compare");
  Json json = Json::parse(run_quern("bench compare --json " + folder.write("a.json", infer_json(10.0, 2e10)) + " " +
                                    folder.write("b.json", infer_json(10.0, 1e10)))
                              .out,
                          nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["figures"][0]["name"], "prefill/512");
  EXPECT_EQ(json["figures"][0]["verdict"], "not told apart");
  EXPECT_EQ(json["figures"][1]["name"], "decode/depth 0/sequences 8");
  EXPECT_EQ(json["figures"][1]["verdict"], "faster");  // as fast on half the memory
  const auto train = [](double rate) {
    return Json::array({{{"run", "x.yaml"},
                         {"precision", "bf16"},
                         {"isa", "amx"},
                         {"threads", 2},
                         {"tokens_per_second_of_rounds", std::vector<double>(6, rate)},
                         {"register_peaks_gflops", std::vector<double>(7, 100.0)}}})
        .dump();
  };
  json = Json::parse(
      run_quern("bench compare --json " + folder.write("c.json", train(10.0)) + " " + folder.write("d.json", train(5.0)))
          .out,
      nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["figures"][0]["name"], "x.yaml/bf16");
  EXPECT_EQ(json["figures"][0]["verdict"], "regression");
}

TEST(CliBenchCompare, WhatIsWrongIsSaidInOneSentence) {
  const TestFolder folder("cli_compare");
  const std::string good = folder.write("good.json", kernels_json({{"a", 1.0, 0.5}}));
  const auto expect = [&](const std::string& file, const std::string& part) {
    const ProgramResult result = run_quern("bench compare " + good + " " + file);
    EXPECT_EQ(result.code, 2) << part;
    EXPECT_TRUE(contains(result.err, part)) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  expect(folder.file("absent.json"), "absent.json: cannot be opened");
  expect(folder.write("text.json", "hello"), "text.json: expected JSON");
  expect(folder.write("other.json", R"({"x":1})"), "other.json: expected what `quern bench kernels`");
  expect(folder.write("rows.json", R"({"bench":"kernels","rows":[7]})"), "kernels.rows[0]: expected an object");
  expect(folder.write("name.json", R"({"bench":"kernels","rows":[{}]})"), "kernels.rows[0].name: expected text");
  expect(folder.write("twice.json", kernels_json({{"a", 1.0, 0.5}, {"a", 1.0, 0.5}})), "two figures are called `a`");
  expect(folder.write("escape.json", kernels_json({{"\x1b[2J", 1.0, 0.5}})), "without control characters");
  expect(folder.write("types.json", R"([{"isa":5,"threads":"x"}])"), "train.rows[0].run: expected text");
  expect(folder.write("infer.json", infer_json(1.0, 1.0)), "they have no figures in common");
  expect(folder.write("train.json",
                      R"([{"run":"x","precision":"f32","tokens_per_second_of_rounds":[1],"register_peaks_gflops":[1]}])"),
         "one more than there are rounds");
}

}  // namespace
}  // namespace quern
