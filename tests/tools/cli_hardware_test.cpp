// quern hardware as a user runs it: description, measurement, estimates.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/run_quern.hpp"

namespace quern {
namespace {

using Json = nlohmann::json;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Json json_of(const ProgramResult& result) {
  EXPECT_EQ(result.code, 0) << result.err;
  Json json = Json::parse(result.out, nullptr, false);
  EXPECT_TRUE(json.is_object()) << result.out;
  return json;
}

TEST(CliHardware, DescribesTheMachine) {
  const ProgramResult text = run_quern("hardware --no-models");
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* line : {"processor: ", "layout: ", "NUMA node 0: ", "pages: ", "memory: ", "container: ", "affinity: ",
                           "GPU", "instruction set: ", "threads: "}) {
    EXPECT_TRUE(contains(text.out, line)) << line;
  }
  EXPECT_FALSE(contains(text.out, "| model |"));
  const Json json = json_of(run_quern("hardware --no-models --json"));
  EXPECT_GE(json["numa_nodes"].size(), 1U);
  EXPECT_GE(json["memory_usable_bytes"].get<double>(), 1.0);
  EXPECT_FALSE(json.contains("estimates"));
  EXPECT_FALSE(json.contains("measurement"));
}

TEST(CliHardware, EstimatesFromASavedMeasurement) {
  const TestFolder folder("cli_hardware");
  const std::string figure =
      R"({"count":10,"median":2,"low":1,"high":3,"coverage":0.97,"min":1,"max":1e12,"quartile_low":1,"quartile_high":3})";
  const std::string file = folder.write(
      "machine.json", R"({"measurement":{"instruction_set":"amx","peaks":[{"type":"bf16","threads":2,"ops_per_second":)" +
                          figure + R"(}],"streams":[{"level":0,"access":"read","threads":2,"bytes":1,"bytes_per_second":)" +
                          figure + "}]}}");
  const Json json =
      json_of(run_quern("hardware --json --measured " + file + " --models llama2-7b,gpt-oss-20b --types Q8_0 --context 1"));
  const Json& models = json["estimates"]["models"];
  ASSERT_EQ(models.size(), 2U);
  EXPECT_EQ(models[0]["name"], "llama2-7b");
  EXPECT_EQ(models[0]["weight_bytes"], 7160348672U);
  // The best repeat over the bytes of a token and of one position of the cache.
  EXPECT_NEAR(models[0]["decode_wall_tokens_per_second"].get<double>(), 1e12 / (7021089024.0 + 32 * 2 * 4096 * 2), 1e-3);
  const ProgramResult text = run_quern("hardware --measured " + file + " --models llama2-7b");
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_TRUE(contains(text.out, "| Llama 2 7B | Q4_K_M | 4.08 GB | 4.01 GB | 2.15 GB |")) << text.out;
}

TEST(CliHardware, MeasuresAndReadsItsOwnFile) {
  const TestFolder folder("cli_hardware");
  const ProgramResult result = run_quern("hardware --measure --json -t 1 --warmup 0 --repeats 1 --models llama2-7b");
  const Json json = json_of(result);
  for (const char* key : {"peaks", "streams", "pages", "latencies", "barriers", "clocks"}) {
    EXPECT_TRUE(json["measurement"][key].is_array()) << key;
  }
  EXPECT_GE(json["measurement"]["streams"].size(), 4U);
  const Json again =
      json_of(run_quern("hardware --json --models llama2-7b --measured " + folder.write("m.json", result.out)));
  EXPECT_EQ(again["estimates"]["walls"]["read_bytes_per_second"], json["estimates"]["walls"]["read_bytes_per_second"]);
}

TEST(CliHardware, WhatIsWrongIsSaidInOneSentence) {
  const TestFolder folder("cli_hardware");
  const auto expect = [](const std::string& arguments, const std::string& part) {
    const ProgramResult result = run_quern("hardware " + arguments);
    EXPECT_EQ(result.code, 2) << arguments;
    EXPECT_TRUE(contains(result.err, part)) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  expect("--models llama9", "there is no `llama9`");
  expect("--types Q9", "Q9");
  expect("--kv-type q1", "--kv-type");
  expect("--threads 0", "--threads");
  expect("--measured " + folder.file("absent.json"), "absent.json");
  expect("--measured " + folder.write("a.json", "{}"), "a.json: expected what `quern hardware --measure --json` writes");
  expect("--measured " + folder.write("b.json", R"({"measurement":{"peaks":[{"type":"f99"}],"streams":[]}})"),
         "measurement.peaks[0].type");
  expect("--measured " + folder.write("c.json", R"({"measurement":{"peaks":[],"streams":7}})"), "measurement.streams");
  expect("--measured " + folder.write("d.json", R"({"measurement":{"peaks":[{"type":"f32","threads":1,"method":"\xff"}],)"
                                                R"("streams":[]}})"),
         "d.json");
  expect("--measured " +
             folder.write("e.json", R"({"measurement":{"peaks":[{"type":"f32","threads":1,"method":7}],"streams":[]}})"),
         "measurement.peaks[0].ops_per_second");
  expect("--measure --measured x", "--measure");
}

}  // namespace
}  // namespace quern
