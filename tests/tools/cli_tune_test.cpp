// quern tune as a user runs it: settings are found, kept, taken up by other commands, and left alone where asked.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/run_quern.hpp"
#include "tools/tiny_run.hpp"

namespace quern {
namespace {

namespace fs = std::filesystem;

class CliTune : public WithTinyRun {
 protected:
  static std::string config() { return folder().file("config"); }
  static std::string environment() { return "XDG_CONFIG_HOME=" + config(); }
  static fs::path tuning() { return fs::path(config()) / "quern" / "tuning"; }
  /// The one file that was written.
  static std::string file() {
    for (const auto& entry : fs::directory_iterator(tuning())) return entry.path().string();
    return "";
  }
  static std::string quick() { return " --prompt 8 --decode 1 --answer 4 --rounds 1 --warmup 0"; }
  static std::string yaml() {
    return folder().write("bench.yaml", "run: {dir: " + folder().file("nowhere") +
                                            "}\ndata: {corpus: nowhere.h5}\n"
                                            "model: {vocab: 50, layers: 1, width: 32, heads: 2, context: 16}\n"
                                            "train: {batch: 1, steps: 1}\n");
  }
  static ProgramResult run(const std::string& more) {
    return run_quern("run " + model() + " -p 'the cat' -n 2 " + more, environment());
  }
  void SetUp() override { fs::remove_all(config()); }

  static void replace(const std::string& path, const std::string& from, const std::string& to) {
    std::string text = read_text_file(path);
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << text;
    text.replace(at, from.size(), to);
    std::ofstream(path, std::ios::binary) << text;
  }
};

TEST_F(CliTune, FindsKeepsAndExplains) {
  const ProgramResult result = run_quern("tune " + model() + quick() + " --json", environment());
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out, nullptr, false);
  ASSERT_TRUE(json.is_object()) << result.out;
  EXPECT_EQ(json["tune"], "inference");
  EXPECT_EQ(json["interrupted"], false);
  EXPECT_EQ(json["file"], file());
  ASSERT_EQ(json["choices"].size(), 8U);
  EXPECT_EQ(json["settings"]["threads"], 0) << "one round tells nothing apart";
  for (const auto& choice : json["choices"]) EXPECT_FALSE(choice["reason"].get<std::string>().empty());
  EXPECT_EQ(json["choices"][1]["setting"], "affinity");
  EXPECT_EQ(json["choices"][1]["candidates"][0]["tokens_per_second"]["count"], 1);
  EXPECT_TRUE(contains(read_text_file(file()), "quern_tuning: 1"));
}

TEST_F(CliTune, CommandsTakeUpWhatWasFoundUnlessToldOtherwise) {
  ASSERT_EQ(run_quern("tune " + model() + quick(), environment()).code, 0);
  EXPECT_TRUE(contains(run("").err, "as tuned for this model and machine: the defaults"));
  replace(file(), "threads: 0", "threads: 1");
  replace(file(), "batch: 512", "batch: 3");
  EXPECT_TRUE(contains(run("").err, "as tuned for this model and machine: 1 thread, batch 3")) << run("").err;
  EXPECT_TRUE(contains(run("--threads 2").err, "machine: batch 3")) << "what is given goes before";
  EXPECT_FALSE(contains(run("--no-tuned").err, "tuned"));
  const std::string bench = "bench infer " + model() + " --prompt 8 --decode 1 --rounds 1 --warmup 0";
  EXPECT_TRUE(contains(run_quern(bench, environment()).err, "1 thread, batch 3"));
  EXPECT_TRUE(contains(run_quern(bench, environment()).out, "1 thread")) << "it is what is measured with";
  EXPECT_FALSE(contains(run_quern("logits " + model() + " --tokens 1,2", environment()).err, "tuned"));
  EXPECT_EQ(run("").out, run("--no-tuned").out) << "no result changes";
}

TEST_F(CliTune, DamagedAndForeignFilesAreAWarning) {
  ASSERT_EQ(run_quern("tune " + model() + quick(), environment()).code, 0);
  const std::string whole = read_text_file(file());
  replace(file(), "batch: 512", "batch: none");
  ProgramResult result = run("");
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(contains(result.err, "settings.batch: expected 1 to")) << result.err;
  EXPECT_TRUE(contains(result.err, file())) << result.err;
  std::ofstream(file(), std::ios::binary) << whole.substr(0, whole.size() / 2);
  result = run("");
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(contains(result.err, "quern: not tuned: ")) << result.err;
  std::ofstream(file(), std::ios::binary) << whole;
  replace(file(), "processor: \"", "processor: \"Another ");
  result = run("");
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(contains(result.err, "written for checkpoint")) << result.err;
  ASSERT_EQ(run_quern("tune " + model() + quick(), environment()).code, 0) << "written anew";
  EXPECT_TRUE(contains(run("").err, "as tuned"));
}

TEST_F(CliTune, ADryRunAndAnotherModelLeaveNothing) {
  const ProgramResult dry = run_quern("tune " + model() + quick() + " --dry-run", environment());
  ASSERT_EQ(dry.code, 0) << dry.err;
  EXPECT_TRUE(contains(dry.out, "\nthreads ")) << dry.out;
  EXPECT_FALSE(fs::exists(tuning()));
}

TEST_F(CliTune, RunsToTrain) {
  const ProgramResult tuned = run_quern("tune " + yaml() + " --rounds 1 --steps 1", environment());
  ASSERT_EQ(tuned.code, 0) << tuned.err;
  EXPECT_TRUE(contains(tuned.out, "\nblock_rows ")) << tuned.out;
  replace(file(), "threads: 0", "threads: 1");
  const ProgramResult plan = run_quern("train " + yaml() + " --dry-run", environment());
  EXPECT_TRUE(contains(plan.err, "as tuned for this model and machine: 1 thread")) << plan.err;
  const ProgramResult given = run_quern("train " + yaml() + " system.threads=2 --dry-run", environment());
  EXPECT_TRUE(contains(given.err, "machine: the defaults")) << given.err;
  const ProgramResult without = run_quern("train " + yaml() + " --dry-run --no-tuned", environment());
  EXPECT_FALSE(contains(without.err, "tuned")) << without.err;
}

TEST_F(CliTune, AnInterruptLeavesNothingHalfWritten) {
  const ProgramResult result =
      run_shell("env " + environment() + " timeout --foreground --preserve-status -s INT 0.5 " QUERN_BINARY " tune " +
                model() + " --rounds 10000 --json");
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_TRUE(contains(result.err, "quern: interrupted with 0 of 8 settings chosen\n")) << result.err;
  EXPECT_FALSE(fs::exists(tuning()));
  const auto json = nlohmann::json::parse(result.out, nullptr, false);
  ASSERT_TRUE(json.is_object()) << result.out;
  EXPECT_EQ(json["interrupted"], true);
  EXPECT_EQ(json["file"], nullptr);
}

TEST_F(CliTune, MistakesGetASentence) {
  expect_refused("tune", "expected a MODEL or a --shape");
  expect_refused("tune " + folder().file("absent.gguf"), "absent.gguf");
  expect_refused("tune " + folder().file("absent.yaml"), "absent.yaml");
  expect_refused("tune --shape llama9 --type q8_0", "there is no `llama9`");
  expect_refused("tune " + model() + " train.batch=2", "KEY=VALUE is for a run");
  EXPECT_EQ(run_quern("tune " + model() + " --kv-type q4_0").code, 2);
  const ProgramResult homeless = run_quern("tune " + model() + quick(), "-u HOME -u XDG_CONFIG_HOME");
  EXPECT_NE(homeless.code, 0);
  EXPECT_TRUE(contains(homeless.err, "neither XDG_CONFIG_HOME nor HOME")) << homeless.err;
}

}  // namespace
}  // namespace quern
