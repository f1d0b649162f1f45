// A run folder with a tiny trained model, made once for a test program by the program under test.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "tools/run_quern.hpp"

namespace quern {

/// The text that it is trained on, line by line much alike, so that few steps teach something.
inline std::string cats_text() {
  std::string text;
  for (int i = 0; i < 400; ++i) text += "the cat " + std::to_string(i * 7919 % 1000) + " sat on the mat\n";
  return text;
}

/// Fixture: `model()` is the checkpoint of a model over bytes (ids are the bytes) with a context of 64.
class WithTinyRun : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TestFolder>("quern_tiny_run");
    const std::string source = folder_->write("cats.txt", cats_text());
    const ProgramResult data = run_quern("data prepare " + source + " --tokenizer byte --out " + folder_->file("cats.h5"));
    ASSERT_EQ(data.code, 0) << data.err;
    const std::string yaml = folder_->write(
        "run.yaml", "run:\n  dir: " + folder_->file("run") + "\ndata:\n  corpus: " + folder_->file("cats.h5") +
                        "\nmodel:\n  layers: 2\n  width: 32\n  heads: 1\n  context: 64\n  position: rope\n"
                        "train:\n  steps: 20\n  batch: 4\n  eval_every: 20\n  log_every: 20\n"
                        "optimizer:\n  warmup_steps: 3\n  learning_rate: 0.01\nsystem:\n  threads: 2\n");
    const ProgramResult train = run_quern("train " + yaml);
    ASSERT_EQ(train.code, 0) << train.err;
  }
  static void TearDownTestSuite() { folder_.reset(); }

  [[nodiscard]] static std::string model() { return folder_->file("run/checkpoints/last.h5"); }
  [[nodiscard]] static const TestFolder& folder() { return *folder_; }
  [[nodiscard]] static bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
  /// A failure that is the user's: exit code 2, one sentence with `part`, nothing on standard output.
  static void expect_refused(const std::string& arguments, const std::string& part) {
    const ProgramResult result = run_quern(arguments);
    EXPECT_EQ(result.code, 2) << arguments << "\n" << result.out << result.err;
    EXPECT_EQ(result.err.rfind("quern: ", 0), 0U) << arguments << ": " << result.err;
    EXPECT_TRUE(contains(result.err, part)) << arguments << ": " << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }

 private:
  static inline std::unique_ptr<TestFolder> folder_;
};

}  // namespace quern
