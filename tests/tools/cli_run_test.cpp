// quern run as a user runs it: sources of the prompt, streams, JSON, stopping, statistics, profile, interrupts, errors.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/published_models.hpp"
#include "support/shared_data.hpp"
#include "tools/run_quern.hpp"
#include "tools/tiny_run.hpp"

namespace quern {
namespace {

/// With `--quiet` the machine's bandwidth is not measured.
nlohmann::json run_json(const std::string& arguments, const std::string& quiet = " --quiet") {
  const ProgramResult result = run_quern("run " + arguments + " --json" + quiet);
  EXPECT_EQ(result.code, 0) << arguments << result.err;
  EXPECT_EQ(result.err, "");
  auto json = nlohmann::json::parse(result.out, nullptr, false);
  EXPECT_TRUE(json.is_object()) << result.out;
  return json;
}

class CliRun : public WithTinyRun {};

TEST_F(CliRun, PrintsTheContinuationAndStatisticsApart) {
  const std::string greedy = model() + " -p 'the cat' -n 30 --temperature 0";
  const ProgramResult plain = run_quern("run " + greedy);
  ASSERT_EQ(plain.code, 0) << plain.err;
  for (const char* part : {"ended: token limit", "load ", "first token ", "prefill ", "decode ", "tokens/s", "peak memory ",
                           "read a ", "that this machine reads"}) {
    EXPECT_TRUE(contains(plain.err, part)) << part << "\n" << plain.err;
  }
  EXPECT_EQ(plain.out.size(), 31U) << plain.out;  // bytes are tokens, and a line end
  const ProgramResult quiet = run_quern("run " + greedy + " --quiet");
  EXPECT_EQ(quiet.out, plain.out);
  EXPECT_EQ(quiet.err, "");
  const ProgramResult echo = run_quern("run " + greedy + " --quiet --echo");
  EXPECT_EQ(echo.out, "the cat" + plain.out);
  EXPECT_EQ(run_quern("sample " + greedy).out, echo.out) << "quern sample echoes";
  // From a file and from standard input.
  const std::string file = folder().write("prompt.txt", "the cat");
  const std::string rest = " -n 30 --temperature 0 --quiet";
  EXPECT_EQ(run_quern("run " + model() + " --file " + file + rest).out, plain.out);
  EXPECT_EQ(run_shell("printf 'the cat' | " QUERN_BINARY " run " + model() + rest).out, plain.out);
}

TEST_F(CliRun, JsonHasTokensLogProbabilitiesAndTimings) {
  const std::string greedy = model() + " -p 'the cat' -n 20 --temperature 0 --precision f32";
  const auto one = run_json(greedy + " --logprobs 3 --threads 1", ""), two = run_json(greedy + " --threads 2 --batch 2");
  EXPECT_EQ(one["tokens"], two["tokens"]);
  EXPECT_EQ(one["prompt_tokens"], nlohmann::json::parse("[116,104,101,32,99,97,116]"));
  ASSERT_EQ(one["tokens"].size(), 20U);
  ASSERT_EQ(one["log_probabilities"].size(), 20U);
  for (std::size_t i = 0; i < 20; ++i) {
    const auto& step = one["log_probabilities"][i];
    EXPECT_EQ(step["token"], one["tokens"][i]);
    EXPECT_EQ(step["log_probability"], two["log_probabilities"][i]["log_probability"]);
    ASSERT_EQ(step["top"].size(), 3U);
    EXPECT_EQ(step["top"][0]["token"], step["token"]) << "greedy draws the likeliest";
    double sum = 0.0;
    for (const auto& top : step["top"]) sum += std::exp(top["log_probability"].get<double>());
    EXPECT_GT(sum, 0.0);
    EXPECT_LE(sum, 1.0 + 1e-6);
  }
  const auto& timings = one["timings"];
  EXPECT_EQ(timings["prefill_tokens"], 7);
  EXPECT_GT(timings["decode_tokens_per_second"], 0.0);
  EXPECT_GT(timings["memory_bytes_per_second"], 1e8);
  EXPECT_GT(timings["peak_memory_bytes"], 1 << 20);
  EXPECT_GT(timings["weight_bytes_per_token"], 0);
  EXPECT_EQ(one["stop"], "token limit");
}

TEST_F(CliRun, WhatIsSwitchedOffChangesNoToken) {
  const std::string greedy = model() + " -p 'the cat' -n 20 --temperature 0 --precision f32 --batch 4";
  const auto plain = run_json(greedy);
  for (const char* off : {"--no-fused", "--no-arena", "--no-kv-cache", "--no-fused --no-arena --no-kv-cache"}) {
    SCOPED_TRACE(off);
    const auto other = run_json(greedy + " " + off);
    EXPECT_EQ(other["tokens"], plain["tokens"]);
    for (std::size_t i = 0; i < 20; ++i) {
      EXPECT_EQ(other["log_probabilities"][i]["log_probability"], plain["log_probabilities"][i]["log_probability"]);
    }
  }
  expect_refused("run " + model() + " -p x --no-kv-cache --speculate ngram", "--no-kv-cache: proposals are checked");
  expect_refused("run " + model() + " -p x --no-kv-cache --draft " + model(), "--no-kv-cache: proposals are checked");
}

TEST_F(CliRun, SeedsDecideAndSettingsMatter) {
  const std::string draw = model() + " -p 'the cat' -n 40 --temperature 1.5";
  EXPECT_EQ(run_json(draw + " --seed 5")["tokens"], run_json(draw + " --seed 5")["tokens"]);
  EXPECT_NE(run_json(draw + " --seed 5")["tokens"], run_json(draw + " --seed 6")["tokens"]);
  const auto greedy = run_json(model() + " -p 'the cat' -n 10 --temperature 0");
  EXPECT_EQ(run_json(model() + " -p 'the cat' -n 10 --top-k 1 --seed 9")["tokens"], greedy["tokens"]);
  EXPECT_EQ(run_json(model() + " -p 'the cat' -n 10 --samplers top_k --top-k 1")["tokens"], greedy["tokens"]);
  const std::string first = greedy["tokens"][0].dump();
  EXPECT_NE(run_json(model() + " -p 'the cat' -n 1 --temperature 0 --logit-bias " + first + "=-inf")["tokens"][0],
            greedy["tokens"][0]);
}

TEST_F(CliRun, SpeculationDrawsTheSameTokens) {
  for (const char* sampling : {" --temperature 0", " --temperature 0.9 --seed 3"}) {
    const std::string start = model() + " -p 'the cat' -n 50" + sampling;
    const auto plain = run_json(start + " --speculate none");
    EXPECT_EQ(plain["timings"]["speculation"], "none");
    EXPECT_EQ(plain["timings"]["drafted_tokens"], 0);
    EXPECT_EQ(plain["timings"]["decode_passes"], 49);
    EXPECT_EQ(run_json(start)["timings"]["speculation"], "ngram") << "the default";
    const std::string draft = " --draft " + model();
    for (const std::string& options : {std::string(), std::string(" --speculate ngram --draft-tokens 3"), draft,
                                       " --speculate draft --draft-tokens 5" + draft}) {
      const auto fast = run_json(start + options);
      EXPECT_EQ(fast["tokens"], plain["tokens"]) << options;
      EXPECT_EQ(fast["text"], plain["text"]) << options;
      EXPECT_EQ(fast["timings"]["decode_tokens"], 49) << options;
      const auto& timings = fast["timings"];
      EXPECT_EQ(timings["speculation"], options.find("--draft ") == std::string::npos ? "ngram" : "draft");
      EXPECT_EQ(timings["decode_passes"].get<int>() + timings["accepted_tokens"].get<int>(), 49) << options;
      EXPECT_LE(timings["accepted_tokens"], timings["drafted_tokens"]);
    }
  }
  const ProgramResult eigen = run_quern("run " + model() + " -p 'the cat' -n 9 --backend eigen --json --quiet");
  EXPECT_EQ(nlohmann::json::parse(eigen.out)["timings"]["speculation"], "none") << "its rows depend on their neighbours";
}

TEST_F(CliRun, DraftModelsMustFit) {
  const std::string start = "run " + model() + " -p 'the cat' -n 5 ";
  expect_refused(start + "--speculate draft", "--speculate draft: needs --draft MODEL");
  expect_refused(start + "--speculate ngram --draft x.gguf", "--draft: goes with --speculate draft");
  expect_refused(start + "--draft " + folder().file("absent.gguf"), "absent.gguf");
  expect_refused(start + "--draft-tokens 32", "--draft-tokens");
  const std::vector<std::byte> image = published_model_image(published_models().front(), true);
  const std::string other =
      folder().write("other.gguf", std::string(reinterpret_cast<const char*>(image.data()), image.size()));
  expect_refused(start + "--draft " + other, other + ": its vocabulary must be the model's: expected ");
}

TEST_F(CliRun, StopStringsAndFullContextsEndTheText) {
  const std::string greedy = model() + " -p 'the cat' --temperature 0 --quiet ";
  const std::string text = run_quern("run " + greedy + "-n 30").out;
  const char letter = text[10];
  const std::string expected = text.substr(0, text.find(letter));
  const std::string stop = letter == '\n' ? "\\n" : std::string(1, letter);
  EXPECT_EQ(run_quern("run " + greedy + "-n 30 --stop '" + stop + "'").out, expected + "\n");

  const auto full = run_json(model() + " -p 'the cat' -n 0 --temperature 0");
  EXPECT_EQ(full["stop"], "context full");
  EXPECT_GE(full["tokens"].size(), 64U - 7U);
  EXPECT_LE(full["tokens"].size(), 64U - 7U + 1U);
  const auto shifted = run_json(model() + " -p 'the cat' -n 150 --temperature 0 --context-shift --keep 3");
  EXPECT_EQ(shifted["tokens"].size(), 150U);
  EXPECT_EQ(shifted["stop"], "token limit");
  // RoPE goes on past the trained context where it is asked to.
  EXPECT_EQ(run_json(model() + " -p 'the cat' -n 100 --temperature 0 --context 128")["tokens"].size(), 100U);
}

TEST_F(CliRun, CacheTypesAreCloseToOneAnother) {
  const auto exact = run_json(model() + " -p 'the cat' -n 1 --temperature 0 --precision f32");
  for (const char* type : {"f32", "f16", "bf16", "q8_0", "q4_0"}) {
    const auto json = run_json(model() + " -p 'the cat' -n 1 --temperature 0 --precision f32 --kv-type " + type);
    EXPECT_NEAR(json["log_probabilities"][0]["log_probability"].get<double>(),
                exact["log_probabilities"][0]["log_probability"].get<double>(), 0.3)
        << type;
  }
}

TEST_F(CliRun, ProfileAndTrace) {
  const std::string trace = folder().file("trace.json");
  const ProgramResult result = run_quern("run " + model() + " -p 'the cat' -n 8 --profile --trace " + trace);
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* part : {"prefill: 7 tokens in 1 pass, ", "decode: ", "feed-forward", "attention input", "head"}) {
    EXPECT_TRUE(contains(result.err, part)) << part << "\n" << result.err;
  }
  const auto json = nlohmann::json::parse(read_text_file(trace), nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_GT(json["traceEvents"].size(), 50U);
}

TEST_F(CliRun, AnInterruptEndsTheTextAndKeepsTheStatistics) {
  const ProgramResult result = run_shell("timeout --foreground --preserve-status -s INT 1 " QUERN_BINARY " run " + model() +
                                         " -p 'the cat' -n 0 --context-shift");
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_GT(result.out.size(), 50U);
  EXPECT_TRUE(contains(result.err, "ended: interrupted")) << result.err;
  EXPECT_TRUE(contains(result.err, "tokens/s")) << result.err;
}

TEST_F(CliRun, MistakesGetASentence) {
  expect_refused("run " + folder().file("absent.gguf") + " -p x", "absent.gguf");
  expect_refused("run " + folder().write("text.gguf", "GGUF") + " -p x", "text.gguf");
  const std::string choice = "expected a GGUF file, a checkpoint or a run folder, found ";
  expect_refused("run " + folder().file("absent.gguf") + " -p x", "absent.gguf: no such file or folder");
  expect_refused("run " + folder().write("page.gguf", "<html>") + " -p x", choice + "a file that begins with '<html>'");
  expect_refused("run " + folder().write("empty.gguf", "") + " -p x", "the file is empty");
  expect_refused("run /dev/null -p x", "/dev/null: expected ");
  const std::string start = "run " + model() + " -p 'the cat' ";
  expect_refused(start + "--samplers top_k,bogus", "--samplers: ");
  expect_refused(start + "--logit-bias 5", "TOKEN=BIAS");
  expect_refused(start + "--logit-bias 999=1", "999");
  expect_refused(start + "--kv-type q9", "q9");
  expect_refused(start + "--file x", "--file");
  expect_refused(start + "--temperature -1", "--temperature");
  expect_refused("run " + model() + " --file " + folder().file("absent.txt"), "absent.txt");
  expect_refused("run " + model() + " -p '" + std::string(80, 'x') + "'",
                 "the prompt has 80 tokens and leaves no room in a context of 64");
  expect_refused(start + "--context 8 --context-shift --keep 7",
                 "--keep: expected at most 6 tokens of the prompt in a context of 8, found 7");
  const ProgramResult trace = run_quern("run " + model() + " -p x -n 3 --quiet --trace /nowhere/trace.json");
  EXPECT_EQ(trace.code, 1);
  EXPECT_EQ(trace.out, "") << "refused before the work";
}

TEST_F(CliRun, AWrongModelIsToldBeforeStandardInputIsRead) {
  const std::string pipe = folder().file("pipe");  // held open by the shell: reading from it would wait
  const ProgramResult result =
      run_shell("mkfifo " + pipe + "; exec 3<>" + pipe + "; timeout 20 " QUERN_BINARY " run nowhere.gguf <" + pipe);
  EXPECT_EQ(result.code, 2);
  EXPECT_EQ(result.err, "quern: nowhere.gguf: no such file or folder\n");
}

TEST_F(CliRun, FullStandardOutputIsAFailure) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "this system has no /dev/full";
  const ProgramResult result = run_shell(QUERN_BINARY " run " + model() + " -p x -n 3 > /dev/full");
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.err, "quern: standard output cannot be written\n");
}

TEST(CliRunShared, StoriesModelWritesItsStory) {
  const auto stories = shared_data("testdata/stories260K/stories260K-f32.gguf");
  if (!stories) GTEST_SKIP() << "shared data absent: testdata/stories260K";
  const std::string golden = read_text_file(*shared_data("testdata/stories260K/golden_greedy_n200.txt"));
  for (const char* precision : {"auto", "f32"}) {
    const ProgramResult result = run_quern("run " + stories->string() +
                                           " -p '' -n 190 --temperature 0 --quiet --precision " + std::string(precision));
    ASSERT_EQ(result.code, 0) << result.err;
    const std::string text = result.out.substr(0, result.out.size() - 1);
    ASSERT_GT(text.size(), 400U);
    EXPECT_EQ(text.substr(0, 400), golden.substr(0, 400));
  }
}

}  // namespace
}  // namespace quern
