// quern bench report and --report as a user runs them: sections by what the data has, numbers, escaping, mistakes.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/run_quern.hpp"
#include "tools/tiny_run.hpp"

namespace quern {
namespace {

using Json = nlohmann::json;

/// A result of `quern bench infer` whose rounds are `rate` and a little around it.
Json infer_result(const std::string& model, double weight_bytes, int threads, double rate) {
  Json json = {{"model", model},          {"isa", "avx2"},
               {"threads", threads},      {"kv_type", "f16"},
               {"compute", "f32"},        {"batch", 512},
               {"fused", true},           {"arena", true},
               {"kv_cache", true},        {"weight_bytes", weight_bytes},
               {"peak_memory_bytes", 3e9}};
  for (const double depth : {0.0, 1000.0}) {
    Json rounds = Json::array();
    for (int i = 0; i < 7; ++i)
      rounds.push_back({{"tokens_per_second", (rate - depth * 0.002 * rate / 10.0) * (1.0 + 0.001 * i)}});
    json["rows"].push_back({{"kind", "decode"},
                            {"depth", depth},
                            {"sequences", 1},
                            {"weight_bytes_per_step", weight_bytes},
                            {"kv_bytes_per_step", depth * 1e6},
                            {"memory_share", 0.75},
                            {"rounds", rounds}});
  }
  return json;
}

Json kernel_row(const std::string& name, double flops_per_byte, double flops, const std::string& roof, double roof_rate) {
  const auto summary = [](double value) -> Json {
    return {{"count", 7},   {"median", value}, {"low", value},          {"high", value},         {"coverage", 0.98},
            {"min", value}, {"max", value},    {"quartile_low", value}, {"quartile_high", value}};
  };
  return {{"name", name},
          {"flops_per_byte", flops_per_byte},
          {"flops_per_second", flops},
          {"bytes_per_second", flops_per_byte > 0.0 ? flops / flops_per_byte : 0.0},
          {"roof", roof},
          {"roof_rate", summary(roof_rate)},
          {"share", summary(0.5)},
          {"seconds", summary(1e-3)}};
}

class CliBenchReport : public WithTinyRun {
 protected:
  static std::string write(const std::string& name, const Json& json) { return folder().write(name, json.dump()); }
  /// The page that `arguments` make.
  static std::string page(const std::string& arguments) {
    const std::string out = folder().file("page.html");
    const ProgramResult result = run_quern("bench report " + arguments + " --force --out " + out);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.out, "");
    return read_text_file(out);
  }
  static std::string section(const std::string& page, const std::string& id) {
    const std::size_t begin = page.find("<section id=\"" + id + "\"");
    if (begin == std::string::npos) return "";
    return page.substr(begin, page.find("</section>", begin) - begin);
  }
};

TEST_F(CliBenchReport, ThreadsGiveSpeedUpAndEfficiency) {
  std::string files;
  for (const auto& [threads, rate] : {std::pair{1, 100.0}, std::pair{2, 180.0}, std::pair{4, 190.0}}) {
    files += write(fmt::format("t{}.json", threads), infer_result("m.gguf", 1e9, threads, rate)) + " ";
  }
  const std::string html = page(files);
  EXPECT_EQ(html.rfind("<!DOCTYPE html>", 0), 0U);
  EXPECT_FALSE(contains(html, "<script"));
  EXPECT_FALSE(contains(html, "http")) << "the page needs no network";
  for (const char* part : {"prefers-color-scheme:dark", "@media print", "lang=\"en\"", "role=\"img\""})
    EXPECT_TRUE(contains(html, part)) << part;
  const std::string threads = section(html, "threads");
  for (const char* part : {"Speed-up by threads", "Efficiency by threads", ">ideal</text>", ">50 %</text>", ">1.80 [",
                           ">1.90 [", ">90 %</td>", ">48 %</td>"}) {
    EXPECT_TRUE(contains(threads, part)) << part << threads;
  }
  const std::string context = section(html, "context");
  EXPECT_TRUE(contains(context, ">0.80</td>")) << "at 1000 tokens a fifth slower\n" << context;
  EXPECT_TRUE(contains(context, "2.00 GB")) << "1 GB of weights and 1000 x 1 MB of keys and values";
  const std::string advice = section(html, "recommendations");
  EXPECT_TRUE(contains(advice, "use 4 threads, 1.90 times as fast as 1 (efficiency 48 %)")) << advice;
  EXPECT_TRUE(contains(advice, "75 % of the memory&#39;s speed and waits for it")) << advice;
  EXPECT_TRUE(contains(advice, "keys and values are 50 % of the bytes of a step: try --kv-type q8_0")) << advice;
  for (const char* absent : {"log", "types", "settings", "roofline", "batch"})
    EXPECT_EQ(section(html, absent), "") << absent;
}

TEST_F(CliBenchReport, TheLogHasEachGainAndTheRunningTotal) {
  std::string files;
  int step = 0;
  for (const double rate : {100.0, 150.0, 300.0})
    files += write(fmt::format("step{}.json", ++step), infer_result("m.gguf", 1e9, 1, rate)) + " ";
  const std::string log = section(page("--log " + files), "log");
  for (const char* part : {"step3 against step1", "Optimization log: decode, depth 0, sequences 1", ">1.50 [", ">2.00 [",
                           ">3.00 [", ">faster</td>"}) {
    EXPECT_TRUE(contains(log, part)) << part << log;
  }
  const std::string advice = section(page("--log " + files), "recommendations");
  EXPECT_TRUE(contains(advice, "together 3.00 times as fast")) << advice;
  EXPECT_TRUE(contains(advice, "the largest gain is that of step3 (2.00 times)")) << advice;
  const std::string same = section(page("--log " + folder().file("step1.json") + " " + folder().file("step1.json")), "log");
  EXPECT_TRUE(contains(same, ">not told apart</td>")) << same;
}

TEST_F(CliBenchReport, TypesHaveSpeedSizeAndPerplexity) {
  std::string files;
  for (const auto& [name, bytes, rate, perplexity] :
       {std::tuple{"a-q8_0", 8e8, 50.0, 6.000}, std::tuple{"a-q4_k_m", 4e8, 90.0, 6.030},
        std::tuple{"a-q2_k", 2e8, 120.0, 7.500}}) {
    files += write(std::string(name) + ".json", infer_result(std::string(name) + ".gguf", bytes, 2, rate)) + " ";
    files += write(std::string(name) + "-ppl.json",
                   {{"model", std::string(name) + ".gguf"}, {"perplexity", perplexity}, {"error", 0.01}}) +
             " ";
  }
  const std::string html = page(files);
  const std::string types = section(html, "types");
  for (const char* part :
       {"Speed by size", "Perplexity by size", ">a-q4_k_m</text>", ">400.00 MB</td>", ">6.030 +- 0.010</td>"}) {
    EXPECT_TRUE(contains(types, part)) << part << types;
  }
  const std::string advice = section(html, "recommendations");
  EXPECT_TRUE(contains(advice, "a-q4_k_m is the smallest within 1 % of the best perplexity (6.030; a-q8_0 has 6.000)"))
      << advice;
  EXPECT_TRUE(contains(advice, "a-q2_k is faster (120 tokens/s) at a perplexity of 7.500, 25.0 % above the best")) << advice;
}

TEST_F(CliBenchReport, KernelsStandUnderTheirRoofs) {
  const Json kernels = {{"bench", "kernels"},
                        {"processor", "A processor"},
                        {"instruction_set", "avx2"},
                        {"threads", 2},
                        {"rows",
                         {kernel_row("matmul/f32/forward/1", 100.0, 2e11, "f32", 4e11),
                          kernel_row("adamw/1", 0.5, 5e9, "memory", 2e10), kernel_row("nothing", 0.0, 0.0, "f32", 4e11)}}};
  const std::string html = page(write("kernels.json", kernels));
  const std::string roofline = section(html, "roofline");
  for (const char* part : {">f32, 400 GFLOP/s</text>", ">memory, 20.0 GB/s</text>", ">matmul f32</text>",
                           ">rows and others</text>", ">adamw/1</th>", ">200</td>"}) {
    EXPECT_TRUE(contains(roofline, part)) << part << roofline;
  }
  EXPECT_FALSE(contains(roofline, "nothing</th>")) << "without operations there is no place under a roof";
  EXPECT_TRUE(contains(html, "A processor"));
  EXPECT_TRUE(contains(section(html, "recommendations"), "bounds 1 of 3 kernels")) << html;
}

TEST_F(CliBenchReport, SweepsAndSwitchesBecomeSettings) {
  const auto summary = [](double value) -> Json {
    return {{"count", 7},   {"median", value}, {"low", value * 0.99},   {"high", value * 1.01},  {"coverage", 0.98},
            {"min", value}, {"max", value},    {"quartile_low", value}, {"quartile_high", value}};
  };
  Json sweep = {{"bench", "sweep"}, {"what", "infer"}, {"name", "m.gguf"}, {"rows", Json::array()}};
  for (const auto& [affinity, rate] : {std::pair{"none", 100.0}, std::pair{"compact", 125.0}}) {
    sweep["rows"].push_back({{"kind", "decode"},
                             {"work", "1 at depth 0"},
                             {"settings", {{"affinity", affinity}, {"threads", "2"}}},
                             {"tokens_per_second", summary(rate)}});
  }
  Json off = infer_result("m.gguf", 1e9, 1, 10.0);
  off["kv_cache"] = false;
  const std::string html = page(write("sweep.json", sweep) + " " + write("on.json", infer_result("m.gguf", 1e9, 1, 40.0)) +
                                " " + write("off.json", off));
  const std::string settings = section(html, "settings");
  for (const char* part : {"Speed by affinity", "decode: compact", ">1.25 [", "Speed by KV cache", ">4.00 ["}) {
    EXPECT_TRUE(contains(settings, part)) << part << settings;
  }
  EXPECT_TRUE(contains(section(html, "recommendations"), "with the KV cache 4.00 times as fast as without.")) << html;
}

TEST_F(CliBenchReport, ReadsWhatSweepAndTunePrint) {
  const ProgramResult sweep =
      run_quern("bench sweep infer " + model() + " --threads 1,2 --prompt 4 --decode 1 --rounds 1 --warmup 0 --json");
  ASSERT_EQ(sweep.code, 0) << sweep.err;
  const ProgramResult tune = run_quern("tune " + model() + " --prompt 4 --decode 1 --rounds 1 --warmup 0 --dry-run --json");
  ASSERT_EQ(tune.code, 0) << tune.err;
  const std::string html = page(folder().write("sweep.json", sweep.out) + " " + folder().write("tune.json", tune.out));
  EXPECT_TRUE(contains(section(html, "threads"), "prefill")) << html;
  EXPECT_TRUE(contains(section(html, "settings"), "Speed by task_bytes")) << section(html, "settings");
}

TEST_F(CliBenchReport, InstructionSetsThatAreNotToldApartAreNotRanked) {
  Json portable = infer_result("m.gguf", 1e9, 1, 10.01);
  portable["isa"] = "portable";
  const std::string html = page(write("avx2.json", infer_result("m.gguf", 1e9, 1, 10.0)) + " " + write("p.json", portable));
  EXPECT_TRUE(contains(section(html, "recommendations"), "are not told apart")) << html;
  EXPECT_FALSE(contains(section(html, "recommendations"), "leave QUERN_ISA")) << html;
}

TEST_F(CliBenchReport, WhatFilesSayStaysText) {
  Json hostile = infer_result("<script>alert(1)<title>.gguf", 1e9, 1, 10.0);
  hostile["rows"][0]["rounds"] = Json::array();  // measured nothing
  Json other = infer_result("\"onload=\"x", 5e8, 2, 10.0);
  other["random_weights"] = {{"type", "<img src=x>"}};
  const std::string html = page("'" + write("a&b<c>.json", hostile) + "' '" + write("o.json", other) + "'");
  EXPECT_FALSE(contains(html, "<script")) << html;
  EXPECT_FALSE(contains(html, "<img")) << html;
  EXPECT_FALSE(contains(html, "\"onload")) << html;
  EXPECT_TRUE(contains(html, "&lt;script&gt;")) << html;
}

TEST_F(CliBenchReport, OneRowIsAReportToo) {
  Json one = infer_result("m.gguf", 1e9, 1, 10.0);
  one["rows"].erase(1);
  one["rows"][0]["rounds"] = {{{"tokens_per_second", 10.0}}};
  const std::string html = page(write("one.json", one));
  EXPECT_TRUE(contains(section(html, "sources"), "one.json")) << html;
  EXPECT_EQ(section(html, "threads"), "");
  EXPECT_EQ(section(html, "context"), "");
  Json none = one;
  none["rows"] = Json::array();
  EXPECT_TRUE(contains(page(write("none.json", none)), "<section id=\"sources\""));
}

TEST_F(CliBenchReport, BenchmarksAndCompareWriteTheirOwn) {
  const std::string infer = folder().file("infer.html"), kernels = folder().file("kernels.html"),
                    both = folder().file("both.html");
  const std::string line = "bench infer " + model() + " --prompt 8 --decode 2 --rounds 1 --warmup 0 ";
  const ProgramResult first = run_quern(line + "--depth 0,8 --json --report " + infer);
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_TRUE(contains(section(read_text_file(infer), "context"), "Decode by the length of the text"));
  EXPECT_TRUE(contains(read_text_file(infer), "this run"));
  const std::string before = folder().write("before.json", first.out);
  const ProgramResult second = run_quern("bench compare " + before + " " + before + " --report " + both);
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_TRUE(contains(section(read_text_file(both), "log"), "before against before"));
  ASSERT_EQ(run_quern("bench kernels --filter rope --repeats 1 --warmup 0 --report " + kernels).code, 0);
  EXPECT_TRUE(contains(section(read_text_file(kernels), "roofline"), "rope/"));
  const std::string yaml = folder().write(
      "bench.yaml",
      "run: {dir: " + folder().file("nowhere") +
          "}\ndata: {corpus: nowhere.h5}\n"
          "model: {vocab: 50, layers: 1, width: 32, heads: 2, context: 16}\ntrain: {batch: 1}\nsystem: {threads: 1}\n");
  const std::string train = folder().file("train.html");
  ASSERT_EQ(run_quern("bench train " + yaml + " --sweep train.batch=1,2 --rounds 2 --steps 1 --report " + train).code, 0);
  EXPECT_TRUE(contains(section(read_text_file(train), "batch"), "Training by sequences of a micro-batch"));
  const ProgramResult nowhere = run_quern(line + "--report " + folder().file("no/such/page.html"));
  EXPECT_EQ(nowhere.code, 1) << nowhere.err;
  EXPECT_EQ(nowhere.out, "") << "refused before the work";
  EXPECT_TRUE(contains(nowhere.err, "page.html: cannot create a file")) << nowhere.err;
}

TEST_F(CliBenchReport, MistakesGetASentence) {
  const std::string out = folder().file("new.html");
  const std::string good = write("good.json", infer_result("m.gguf", 1e9, 1, 10.0));
  expect_refused("bench report --out " + out, "expected results, as RESULT or after --log");
  expect_refused("bench report absent.json --out " + out, "absent.json");
  expect_refused("bench report " + folder().write("text.json", "no json") + " --out " + out, "text.json: expected JSON");
  expect_refused("bench report " + folder().write("other.json", "{\"a\": 1}") + " --out " + out,
                 "other.json: expected what `quern bench kernels`");
  expect_refused("bench report " + folder().write("number.json", "7") + " --out " + out, "number.json: expected what");
  Json broken = infer_result("m.gguf", 1e9, 1, 10.0);
  broken["rows"][1].erase("depth");
  expect_refused("bench report " + write("broken.json", broken) + " --out " + out,
                 "result.rows[1].depth: expected a number");
  broken = infer_result("m.gguf", 1e9, 1, 10.0);
  broken["rows"][0]["kind"] = "guess";
  expect_refused("bench report " + write("kind.json", broken) + " --out " + out,
                 "result.rows[0].kind: expected `decode` or `prefill`");
  EXPECT_FALSE(std::filesystem::exists(out)) << "nothing is written";
  ASSERT_EQ(run_quern("bench report " + good + " --out " + out).code, 0);
  expect_refused("bench report " + good + " --out " + out, "is there already; --force replaces it");
  expect_refused("bench report " + good + " --force --out " + good, "is both what is read and what is to be written");
}

}  // namespace
}  // namespace quern
