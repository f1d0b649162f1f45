// The program's command line: help, version, exit codes, messages, completion scripts.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "math/dispatch.hpp"
#include "tools/run_quern.hpp"
#include "train/run_config.hpp"

namespace quern {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const std::vector<std::string> kCommands = {
    "data",         "data prepare",    "data info", "data tokenizer", "train",    "sample",     "hardware",
    "config-keys",  "completion",      "run",       "chat",           "logits",   "perplexity", "tokenize",
    "detokenize",   "render-template", "inspect",   "convert",        "quantize", "imatrix",    "bench kernels",
    "bench compare"};

/// A failure that is the user's: exit code 2, one sentence on standard error, nothing on standard output.
void expect_bad_input(const std::string& arguments, const std::string& part) {
  const ProgramResult result = run_quern(arguments);
  EXPECT_EQ(result.code, 2) << arguments;
  EXPECT_EQ(result.err.rfind("quern: ", 0), 0U) << arguments << ": " << result.err;
  EXPECT_TRUE(contains(result.err, part)) << arguments << ": " << result.err;
  EXPECT_EQ(result.out, "") << arguments;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

TEST(Cli, HelpOfEveryCommandEndsWithAnExample) {
  const ProgramResult top = run_quern("--help");
  EXPECT_EQ(top.code, 0);
  for (const std::string& command : kCommands) {
    EXPECT_TRUE(contains(top.out, "\n  " + command.substr(0, command.find(' ')) + " ")) << command;
    const ProgramResult result = run_quern(command + " --help");
    EXPECT_EQ(result.code, 0) << command;
    EXPECT_EQ(result.err, "") << command;
    const std::size_t example = result.out.rfind("\nExample");
    ASSERT_NE(example, std::string::npos) << command;
    EXPECT_TRUE(contains(result.out.substr(example), "quern " + command)) << command << result.out;
  }
}

TEST(Cli, VersionNamesInstructionSetAndCompiler) {
  const ProgramResult result = run_quern("--version");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out.rfind("quern 0.", 0), 0U) << result.out;
  const auto kernels = chosen_kernels();
  ASSERT_TRUE(kernels);
  EXPECT_TRUE(contains(result.out, "instruction set: " + std::string(isa_name((*kernels)->isa)) + "\n")) << result.out;
  EXPECT_TRUE(contains(result.out, "compiler: ")) << result.out;
  EXPECT_TRUE(contains(run_quern("--version", "QUERN_ISA=portable").out, "instruction set: portable"));
}

TEST(Cli, UsageErrorsExitWithTwo) {
  expect_bad_input("", "subcommand is required");
  expect_bad_input("trian", "unknown argument `trian`; `quern --help` says more");
  expect_bad_input("--bogus", "unknown argument `--bogus`");
  expect_bad_input("data", "subcommand is required; `quern data --help` says more");
  expect_bad_input("data prepare", "SOURCE is required; `quern data prepare --help`");
  expect_bad_input("data prepare x --out y --tokenizer wordpiece",
                   "--tokenizer: expected char, byte, bpe or a file that has one: wordpiece: no such file");
  expect_bad_input("data prepare x --out y --vocab many", "many");
  expect_bad_input("data prepare x --out y --threads -1", "--threads");
  expect_bad_input("completion tcsh", "tcsh not in {bash,zsh,fish}");
  expect_bad_input("train", "RUN is required");
  expect_bad_input("sample", "required");
  expect_bad_input("hardware extra", "extra");
}

TEST(Cli, BadInstructionSetExitsWithTwo) {
  for (const char* command : {"--version", "hardware"}) {
    const ProgramResult result = run_quern(command, "QUERN_ISA=sse9");
    EXPECT_EQ(result.code, 2) << command;
    EXPECT_TRUE(contains(result.err, "quern: QUERN_ISA")) << result.err;
    EXPECT_TRUE(contains(result.err, "sse9")) << result.err;
    EXPECT_TRUE(contains(result.err, "portable")) << result.err;
  }
  EXPECT_EQ(run_quern("--help", "QUERN_ISA=sse9").code, 0);  // help needs no kernels
}

TEST(Cli, HardwareAsTextAndJson) {
  const ProgramResult text = run_quern("hardware");
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_TRUE(contains(text.out, ": ")) << text.out;
  const ProgramResult result = run_quern("hardware --json");
  EXPECT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out, nullptr, false);
  ASSERT_TRUE(json.is_object()) << result.out;
  EXPECT_GE(json["logical_processors"].get<int>(), 1);
  EXPECT_GE(json["default_threads"].get<int>(), 1);
  EXPECT_TRUE(json["caches"].is_array());
  EXPECT_TRUE(json["instruction_set"].is_string());
  bool found = false;
  for (const auto& path : json["instruction_sets"]) found = found || (path["name"] == "portable" && path["usable"] == true);
  EXPECT_TRUE(found) << result.out;
}

TEST(Cli, ConfigKeysListsEveryKey) {
  const std::string text = run_quern("config-keys").out, table = run_quern("config-keys --markdown").out;
  for (const KeyDoc& doc : run_config_keys()) {
    EXPECT_TRUE(contains(text, doc.key + ": " + doc.description + "\n    ")) << doc.key;
    EXPECT_TRUE(contains(table, "\n| `" + doc.key + "` | " + doc.type + " | ")) << doc.key;
  }
}

TEST(Cli, CompletionScriptsKnowEveryCommand) {
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    const ProgramResult script = run_quern("completion " + shell);
    EXPECT_EQ(script.code, 0);
    for (const std::string& command : kCommands) EXPECT_TRUE(contains(script.out, "quern " + command)) << shell << command;
    for (const char* word : {"gguf checkpoint huggingface", "train.steps=", "dry-run", "markdown"}) {
      EXPECT_TRUE(contains(script.out, word)) << shell << ": " << word;
    }
    // The shell's own check of the syntax, where the shell is there.
    const std::string check =
        "command -v " + shell + " || exit 0; " QUERN_BINARY " completion " + shell + " | " + shell + " -n";
    const ProgramResult syntax = run_shell(check);
    EXPECT_EQ(syntax.code, 0) << syntax.err;
    EXPECT_EQ(syntax.err, "");
  }
}

/// What bash offers after the words of `line`, the last of which may be incomplete.
std::string bash_offers(const std::string& line) {
  const std::string program = "source <(" QUERN_BINARY " completion bash); compopt() { :; }; COMP_WORDS=(" + line +
                              "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _quern; echo ${COMPREPLY[*]}";
  const TestFolder folder("quern_bash");
  return run_shell("bash " + folder.write("offers.sh", program)).out;
}

TEST(Cli, BashCompletionOffersWhatFits) {
  EXPECT_EQ(bash_offers("quern da"), "data\n");
  EXPECT_EQ(bash_offers("quern data \"\""), "prepare info tokenizer\n");
  EXPECT_EQ(bash_offers("quern data prepare --tok"), "--tokenizer\n");
  EXPECT_EQ(bash_offers("quern convert x y --to g"), "gguf\n");
  EXPECT_EQ(bash_offers("quern data prepare --force --sp"), "--split\n");  // a flag takes no value
  EXPECT_EQ(bash_offers("quern train run.yaml train.st"), "train.steps=\n");
  EXPECT_EQ(bash_offers("quern completion f"), "fish\n");
  EXPECT_EQ(bash_offers("quern data prepare --out x"), "\n");  // left to file names
}

TEST(Cli, TrainNamesTheFaultyKeyOfARunFile) {
  const TestFolder folder("quern_cli_train");
  const std::string run = folder.write("run.yaml", "run: {dir: r}\ndata: {corpus: missing.h5}\ntrain: {stesp: 5}\n");
  expect_bad_input("train " + run, run + ":3:9: key `train.stesp`: unknown; nearest known key: `train.steps`");
  const std::string good = folder.write("good.yaml", "run: {dir: r}\ndata: {corpus: missing.h5}\n");
  expect_bad_input("train " + good, good + ":2:16: key `data.corpus`: no such file: missing.h5");
  expect_bad_input("train " + good + " train.steps=none", "command line: key `train.steps`: must be an integer");
  expect_bad_input("train " + folder.file("absent.yaml"), "cannot be opened");
}

TEST(Cli, MessagesAreOneReadableLineWhateverTheyQuote) {
  const ProgramResult wild = run_shell(QUERN_BINARY " inspect \"$(printf 'a\\033[31m\\nb')\"");
  EXPECT_EQ(wild.code, 2);
  EXPECT_EQ(wild.err, "quern: a\\x1B[31m\\nb: no such file or folder\n");
  const ProgramResult longest = run_shell(QUERN_BINARY " inspect \"$(printf '%05000d' 7)\"");
  EXPECT_EQ(longest.code, 2);
  EXPECT_LT(longest.err.size(), 2100U);
  EXPECT_EQ(std::count(longest.err.begin(), longest.err.end(), '\n'), 1);
}

TEST(Cli, FullStandardOutputIsAFailure) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "this system has no /dev/full";
  EXPECT_EQ(run_shell(QUERN_BINARY " config-keys > /dev/full").code, 1);
}

}  // namespace
}  // namespace quern
