// quern train and quern sample as a user runs them: dry run, signals, resume, samples, damaged files.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tools/run_quern.hpp"

namespace quern {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class CliTrain : public testing::Test {
 protected:
  CliTrain() : folder_("quern_cli_train") {}
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 600; ++i) text += "the cat " + std::to_string(i * 7919 % 1000) + " sat on the mat\n";
    const std::string source = folder_.write("cats.txt", text);
    ASSERT_EQ(run_quern("data prepare " + source + " --tokenizer bpe --vocab 300 --out " + folder_.file("cats.h5")).code, 0);
    yaml_ =
        folder_.write("run.yaml", "run:\n  dir: " + folder_.file("run") + "\ndata:\n  corpus: " + folder_.file("cats.h5") +
                                      "\nmodel:\n  layers: 2\n  width: 32\n  heads: 2\n  context: 32\n"
                                      "train:\n  steps: 30\n  batch: 4\n  eval_every: 10\n  log_every: 5\n  dropout: 0.1\n"
                                      "optimizer:\n  warmup_steps: 3\nsystem:\n  threads: 2\n");
  }
  TestFolder folder_;
  std::string yaml_;
};

TEST_F(CliTrain, DryRunPrintsThePlanAndWritesNothing) {
  const ProgramResult result = run_quern("train " + yaml_ + " train.steps=12 --dry-run");
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* part : {"steps: 12", "parameters", "FLOP per token", "memory: activations"}) {
    EXPECT_TRUE(contains(result.out, part)) << part << "\n" << result.out;
  }
  EXPECT_FALSE(std::filesystem::exists(folder_.file("run")));
}

// A vocabulary with more rows than the corpus has tokens: trained, resumed, sampled without ever drawing one, converted.
TEST_F(CliTrain, PadsTheVocabulary) {
  const ProgramResult dry = run_quern("train " + yaml_ + " model.vocab=448 --dry-run");
  ASSERT_EQ(dry.code, 0) << dry.err;
  EXPECT_TRUE(contains(dry.out, "vocabulary 448")) << dry.out;
  const ProgramResult refused = run_quern("train " + yaml_ + " model.vocab=299 --dry-run");
  EXPECT_EQ(refused.code, 2);
  EXPECT_TRUE(contains(refused.err, "command line: key `model.vocab`: must be 0 or at least 300, the tokens of "))
      << refused.err;

  ASSERT_EQ(run_quern("train " + yaml_ + " model.vocab=448 train.steps=6").code, 0);
  const ProgramResult resumed = run_quern("train " + yaml_ + " model.vocab=448 train.steps=8 --resume");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(run_quern("train " + yaml_ + " train.steps=9 --resume").code, 2) << "another vocabulary than the checkpoint's";
  const ProgramResult onward = run_quern("train " + yaml_ + " train.from=" + folder_.file("run") +
                                         " train.steps=4 run.dir=" + folder_.file("onward"));
  EXPECT_EQ(onward.code, 0) << onward.err;

  const std::string model = folder_.file("run"), gguf = folder_.file("padded.gguf"), hub = folder_.file("hub");
  ASSERT_EQ(run_quern("convert " + model + " " + gguf).code, 0);
  const ProgramResult to_hub = run_quern("convert " + model + " " + hub);
  ASSERT_EQ(to_hub.code, 0) << to_hub.err;
  const std::string back = folder_.file("back.h5");
  ASSERT_EQ(run_quern("convert " + hub + " " + back).code, 0);
  for (const std::string& file : {model, gguf, back}) {
    // Nearly untrained and hot: a third of all draws would fall on padding.
    const ProgramResult run = run_quern("run " + file + " -p 'the cat' -n 200 --temperature 50 --json");
    ASSERT_EQ(run.code, 0) << file << run.err;
    const auto json = nlohmann::json::parse(run.out, nullptr, false);
    ASSERT_TRUE(json.is_object()) << run.out;
    ASSERT_TRUE(json.contains("tokens")) << run.out;
    for (const auto& token : json["tokens"]) EXPECT_LT(token.get<int>(), 300) << file;
  }
  const ProgramResult sample = run_quern("sample " + model + " --tokens 200 --temperature 50");
  EXPECT_EQ(sample.code, 0) << sample.err;
}

TEST_F(CliTrain, ProfilesAndTraces) {
  const std::string json_file = folder_.file("profile.json"), trace_file = folder_.file("trace.json");
  const ProgramResult result =
      run_quern("train " + yaml_ + " train.steps=4 --profile --profile-json " + json_file + " --trace " + trace_file);
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* part : {"profile of 4 steps on 2 threads", "weight gradient", "mlp in product", "waiting", "optimizer"}) {
    EXPECT_TRUE(contains(result.out, part)) << part << "\n" << result.out;
  }
  const auto profile = nlohmann::json::parse(read_text_file(json_file), nullptr, false);
  ASSERT_TRUE(profile.is_object());
  EXPECT_EQ(profile["steps"], 4);
  double shares = profile["outside"]["share"].get<double>();
  double flops = 0.0;
  for (const auto& phase : profile["phases"]) {
    shares += phase["share"].get<double>();
    flops += phase.value("flops_per_step", 0.0);
  }
  EXPECT_NEAR(shares, 1.0, 0.02);
  // What the marks add up to is what training reports: 6 FLOP per matrix parameter and token, and attention.
  const ProgramResult dry = run_quern("train " + yaml_ + " --dry-run");
  EXPECT_NEAR(flops / (4 * 32), 6.0 * (2 * (4 * 32 * 32 + 3 * 32 * 96) + 300 * 32) + 6.0 * 2 * 32 * 32, 1.0) << dry.out;
  const auto trace = nlohmann::json::parse(read_text_file(trace_file), nullptr, false);
  ASSERT_TRUE(trace.is_object());
  EXPECT_GT(trace["traceEvents"].size(), 100U);

  const ProgramResult refused = run_quern("train " + yaml_ + " --force --trace /nowhere/trace.json");
  EXPECT_EQ(refused.code, 1);
  EXPECT_EQ(refused.out, "") << "refused before the work";
}

TEST_F(CliTrain, MuonShowsItsTimeAndTheTargetItsSeconds) {
  const ProgramResult result =
      run_quern("train " + yaml_ +
                " optimizer.kind=muon optimizer.schedule=wsd train.eval_every=1 train.target_loss=5.6 "
                "train.steps=40 --profile");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "Newton-Schulz")) << result.out;
  EXPECT_TRUE(contains(result.out, "target val_loss 5.6: reached at step")) << result.out;
  EXPECT_TRUE(contains(result.out, "s after the program's start")) << result.out;
  const ProgramResult again = run_quern(
      "train " + yaml_ + " optimizer.kind=muon optimizer.schedule=wsd train.target_loss=5.6 train.steps=40 --resume");
  EXPECT_TRUE(contains(again.out, "lower train.target_loss to go on")) << again.out;
  const ProgramResult missed = run_quern("train " + yaml_ + " train.target_loss=0.001 --force");
  EXPECT_TRUE(contains(missed.out, "target val_loss 0.001: not reached in")) << missed.out;
}

TEST_F(CliTrain, TrainsLogsSamplesAndDoesNotOverwrite) {
  const ProgramResult result = run_quern("train " + yaml_);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "val_loss")) << result.out;
  std::istringstream lines(read_text_file(folder_.file("run/metrics.jsonl")));
  int count = 0, evaluated = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    ASSERT_TRUE(json.is_object()) << line;
    for (const char* key : {"step", "train_loss", "tokens_per_second", "gflops", "peak_fraction", "seconds"}) {
      EXPECT_TRUE(json.contains(key)) << key;
    }
    evaluated += json.contains("val_loss") ? 1 : 0;
  }
  EXPECT_EQ(count, 6);
  EXPECT_EQ(evaluated, 3);
  EXPECT_EQ(run_quern("train " + yaml_).code, 2) << "a run that is there is not overwritten";
  EXPECT_TRUE(contains(run_quern("train " + yaml_ + " --resume").out, "complete"));

  const std::string sample = "sample " + folder_.file("run") + " -p 'the cat' -n 20 --seed 3 --json";
  const ProgramResult one = run_quern(sample + " --threads 1");
  const ProgramResult two = run_quern(sample + " --threads 2");
  ASSERT_EQ(one.code, 0) << one.err;
  const auto a = nlohmann::json::parse(one.out, nullptr, false), b = nlohmann::json::parse(two.out, nullptr, false);
  ASSERT_TRUE(a.is_object()) << one.out;
  EXPECT_EQ(a["tokens"].size(), 20U);
  EXPECT_EQ(a["tokens"], b["tokens"]);
  const ProgramResult plain =
      run_quern("sample " + folder_.file("run/checkpoints/last.h5") + " -p 'the cat' -n 40 --temperature 0");
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.out.rfind("the cat", 0), 0U) << plain.out;
}

TEST_F(CliTrain, StartsFromAnotherRun) {
  ASSERT_EQ(run_quern("train " + yaml_ + " train.steps=10").code, 0);
  // A corpus of other text with the run's tokenizer; the model is not described again.
  const std::string letters = folder_.write("letters.txt", read_text_file(folder_.file("cats.txt")).substr(2000));
  const ProgramResult data =
      run_quern("data prepare " + letters + " --tokenizer " + folder_.file("run") + " --out " + folder_.file("letters.h5"));
  ASSERT_EQ(data.code, 0) << data.err;
  const std::string yaml =
      folder_.write("tune.yaml", "run: {dir: " + folder_.file("tuned") + "}\ndata: {corpus: " + folder_.file("letters.h5") +
                                     "}\ntrain: {from: " + folder_.file("run") + ", steps: 6, batch: 4, eval_every: 3}\n");
  const ProgramResult dry = run_quern("train " + yaml + " --dry-run");
  ASSERT_EQ(dry.code, 0) << dry.err;
  for (const std::string& part :
       {"from: \"" + folder_.file("run") + "\"", std::string("width: 32"), std::string("heads: 2"),
        "weights of            " + folder_.file("run/checkpoints/best.h5 (step 10, its val_loss ")}) {
    EXPECT_TRUE(contains(dry.out, part)) << part << "\n" << dry.out;
  }
  EXPECT_FALSE(std::filesystem::exists(folder_.file("tuned")));

  // On the run's own corpus the first validation is the checkpoint's, to the bit.
  const auto metrics = [&](const std::string& run) {
    std::vector<nlohmann::json> lines;
    std::istringstream text(read_text_file(folder_.file(run + "/metrics.jsonl")));
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line, nullptr, false));
    return lines;
  };
  const std::string same = " data.corpus=" + folder_.file("cats.h5") + " run.dir=" + folder_.file("same");
  const ProgramResult tuned = run_quern("train " + yaml + same + " system.threads=2");
  ASSERT_EQ(tuned.code, 0) << tuned.err;
  EXPECT_TRUE(contains(tuned.out, "step      0  val_loss ")) << tuned.out;
  EXPECT_EQ(metrics("same").front()["step"], 0);
  EXPECT_EQ(metrics("same").front()["val_loss"], metrics("run").back()["val_loss"]);

  ASSERT_EQ(run_quern("train " + yaml + " train.steps=3 optimizer.warmup_steps=0").code, 0);
  ASSERT_EQ(std::filesystem::remove_all(folder_.file("run")) > 0, true);
  const ProgramResult resumed = run_quern("train " + yaml + " optimizer.warmup_steps=0 --resume");
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(metrics("tuned").back()["step"], 6);
  const ProgramResult gone = run_quern("train " + yaml + " --force");
  EXPECT_EQ(gone.code, 2);
  EXPECT_TRUE(contains(gone.err, "key `train.from`")) << gone.err;
  EXPECT_EQ(metrics("tuned").back()["step"], 6) << "what was there stays";
}

TEST_F(CliTrain, SignalsFinishTheStepSaveAndResume) {
  // Without --foreground timeout signals the process and then its group: a second signal, which ends the program at once.
  for (const auto& [name, code] : {std::pair{"INT", 130}, std::pair{"TERM", 143}}) {
    const std::string run = "train " + yaml_ + " train.steps=100000 train.eval_every=0 train.log_every=1";
    const ProgramResult stopped = run_shell("timeout --foreground --preserve-status -s " + std::string(name) +
                                            " 1 " QUERN_BINARY " " + run + (code == 143 ? " --force" : ""));
    EXPECT_EQ(stopped.code, code) << stopped.out << stopped.err;
    EXPECT_TRUE(contains(stopped.out, "--resume")) << stopped.out;
    EXPECT_TRUE(std::filesystem::exists(folder_.file("run/checkpoints/last.h5")));
  }
  const ProgramResult resumed = run_shell("timeout --foreground --preserve-status -s INT 1 " QUERN_BINARY " train " + yaml_ +
                                          " train.steps=100000 train.eval_every=0 --resume");
  EXPECT_EQ(resumed.code, 130) << resumed.err;
}

TEST_F(CliTrain, BadFilesGetASentenceAndExitCode2) {
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const ProgramResult result = run_quern(arguments);
    EXPECT_EQ(result.code, 2) << arguments << "\n" << result.out << result.err;
    EXPECT_TRUE(contains(result.err, part)) << result.err;
    EXPECT_EQ(result.err.rfind("quern: ", 0), 0U) << result.err;
  };
  refused("train " + folder_.file("none.yaml"), "none.yaml");
  refused("train " + yaml_ + " train.stesp=3", "train.steps");
  refused("train " + yaml_ + " train.steps=many", "train.steps");
  refused("train " + yaml_ + " data.corpus=" + yaml_, "run.yaml");
  refused("train " + folder_.write("broken.yaml", "run: [unclosed\n"), "broken.yaml:");
  refused("sample " + folder_.file("nowhere"), "nowhere");
  refused("sample " + yaml_, "run.yaml");
  const std::string corpus = read_text_file(folder_.file("cats.h5"));
  refused("train " + yaml_ + " data.corpus=" + folder_.write("cut.h5", corpus.substr(0, corpus.size() / 2)), "cut.h5");

  ASSERT_EQ(run_quern("train " + yaml_ + " train.steps=5").code, 0);
  std::string checkpoint = read_text_file(folder_.file("run/checkpoints/last.h5"));
  checkpoint[checkpoint.size() / 2] = static_cast<char>(checkpoint[checkpoint.size() / 2] ^ 1);
  refused("sample " + folder_.write("flipped.h5", checkpoint), "flipped.h5");
  refused("sample " + folder_.write("cut_checkpoint.h5", checkpoint.substr(0, 900)), "cut_checkpoint.h5");
}

}  // namespace
}  // namespace quern
