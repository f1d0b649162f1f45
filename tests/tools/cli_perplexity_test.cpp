// quern perplexity as a user runs it, against a computation from the logits that quern logits writes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/shared_data.hpp"
#include "tools/npy_matrix.hpp"
#include "tools/run_quern.hpp"
#include "tools/tiny_run.hpp"

namespace quern {
namespace {

/// Perplexity and its error from the model's logits, chunk by chunk, in plain double arithmetic.
std::pair<double, double> plain_perplexity(const std::string& model, const std::vector<int>& tokens, std::size_t context,
                                           std::size_t most_chunks, const std::string& precision) {
  const TestFolder folder("quern_plain_perplexity");
  std::vector<double> nll;
  for (std::size_t chunk = 0; chunk < std::min(most_chunks, tokens.size() / context); ++chunk) {
    std::string list;
    for (std::size_t i = 0; i < context; ++i) list += (i > 0 ? "," : "") + std::to_string(tokens[chunk * context + i]);
    const std::string out = folder.file("logits.npy");
    const ProgramResult result =
        run_quern("logits " + model + " --precision " + precision + " --tokens " + list + " -o " + out);
    EXPECT_EQ(result.code, 0) << result.err;
    const NpyMatrix logits = read_npy(out);
    for (std::size_t position = context / 2; position + 2 <= context; ++position) {
      const float* row = logits.row(position);
      double sum = 0.0;
      for (std::size_t i = 0; i < logits.columns; ++i) sum += std::exp(static_cast<double>(row[i]));
      nll.push_back(std::log(sum) - row[tokens[chunk * context + position + 1]]);
    }
  }
  double sum = 0.0, squares = 0.0;
  for (const double x : nll) {
    sum += x;
    squares += x * x;
  }
  const auto n = static_cast<double>(nll.size());
  const double mean = sum / n;
  return {std::exp(mean), std::exp(mean) * std::sqrt((squares / n - mean * mean) / (n - 1.0))};
}

std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of('\n');
  const std::size_t start = text.find_last_of('\n', end);
  return text.substr(start + 1, end - start);
}

class CliPerplexity : public WithTinyRun {
 protected:
  CliPerplexity() : text_(cats_text().substr(100, 50 * 7 + 13)), file_(folder().write("text.txt", text_)) {}
  std::string text_;
  std::string file_;
};

TEST_F(CliPerplexity, EqualsPlainComputationAndComparesWithABase) {
  std::vector<int> tokens;
  for (const char byte : text_) tokens.push_back(static_cast<unsigned char>(byte));
  const auto [expected, error] = plain_perplexity(model(), tokens, 50, 99, "f32");

  const std::string base = folder().file("base.h5");
  const std::string start = "perplexity " + model() + " --precision f32 ";
  const ProgramResult saved = run_quern(start + "--file " + file_ + " --context 50 --save-base " + base);
  ASSERT_EQ(saved.code, 0) << saved.err;
  double value = 0.0, plus_minus = 0.0;
  ASSERT_EQ(std::sscanf(last_line(saved.out).c_str(), "perplexity: %lf +/- %lf", &value, &plus_minus), 2) << saved.out;
  EXPECT_NEAR(value, expected, 1e-3);
  EXPECT_NEAR(plus_minus, error, 1e-3);

  const auto json = nlohmann::json::parse(
      run_quern(start + "--file " + file_ + " --context 50 --json --threads 1 --kl " + base).out, nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_NEAR(json["perplexity"].get<double>(), expected, expected * 1e-6);
  EXPECT_NEAR(json["error"].get<double>(), error, error * 1e-5);
  EXPECT_EQ(json["chunks"], 7);
  EXPECT_EQ(json["tokens"], 7 * 24);
  EXPECT_LE(json["kl"]["max"].get<double>(), 1e-7);
  EXPECT_EQ(json["kl"]["top_1_agreement"], 1.0);
  EXPECT_NEAR(json["kl"]["perplexity_ratio"].get<double>(), 1.0, 1e-12);

  // The base file alone says what to score; a coarser cache says something else about it.
  const ProgramResult coarse = run_quern("perplexity " + model() + " --precision f32 --kv-type q4_0 --kl " + base);
  ASSERT_EQ(coarse.code, 0) << coarse.err;
  for (const char* part : {"mean KL divergence", "maximum", "99.9th percentile", "median", "1st percentile",
                           "same most likely token", "RMS change of probability", "perplexity / base's"}) {
    EXPECT_TRUE(contains(coarse.out, part)) << part << "\n" << coarse.out;
  }
  EXPECT_EQ(last_line(coarse.out).rfind("perplexity: ", 0), 0U);

  EXPECT_EQ(run_quern(start + "--file " + file_ + " --kl " + base).code, 0) << "the base's context";
  expect_refused(start + "--file " + file_ + " --context 25 --kl " + base, "made with --context 50, not 25");
  const std::string other = folder().write("other.txt", "X" + text_);
  expect_refused(start + "--file " + other + " --context 50 --kl " + base, "made from other tokens");
  std::string damaged = read_text_file(base);
  expect_refused(start + "--kl " + folder().write("cut.h5", damaged.substr(0, damaged.size() / 2)), "cut.h5");
}

TEST_F(CliPerplexity, ChunksLimitTheText) {
  const std::string start = "perplexity " + model() + " --context 50 --json --file ";
  const auto two = nlohmann::json::parse(run_quern(start + file_ + " --chunks 2").out, nullptr, false);
  ASSERT_TRUE(two.is_object());
  EXPECT_EQ(two["chunks"], 2);
  const std::string half = folder().write("half.txt", text_.substr(0, 120));
  const auto cut = nlohmann::json::parse(run_quern(start + half).out, nullptr, false);
  ASSERT_TRUE(cut.is_object());
  EXPECT_EQ(cut["perplexity"], two["perplexity"]);
}

TEST_F(CliPerplexity, MistakesGetASentence) {
  expect_refused("perplexity " + model(), "--file");
  expect_refused("perplexity " + model() + " --file " + folder().file("absent.txt"), "absent.txt");
  expect_refused("perplexity " + model() + " --context 64 --file " + folder().write("short.txt", "the cat"),
                 "7 tokens are less than one chunk of 64");
  expect_refused("perplexity " + model() + " --context 3 --file " + file_, "--context");
  expect_refused("perplexity " + model() + " --kl " + file_, "text.txt");
}

TEST(CliPerplexityShared, StoriesModelEqualsPlainComputation) {
  const auto model = shared_data("testdata/stories260K/stories260K-f32.gguf");
  const auto folder = shared_data("testdata/text");
  if (!model || !folder) GTEST_SKIP() << "shared data absent: testdata/stories260K";
  std::string text;
  for (const auto& entry : std::filesystem::directory_iterator(*folder)) {
    if (entry.path().filename().string().find("tories") != std::string::npos) text = entry.path().string();
  }
  if (text.empty()) GTEST_SKIP() << "shared data absent: testdata/text/TinyStories";
  const TestFolder temporary("quern_cli_perplexity");
  const std::string file = temporary.write("text.txt", read_text_file(text).substr(0, 3000));
  const ProgramResult ids = run_quern("tokenize " + model->string() + " --ids --file " + file);
  ASSERT_EQ(ids.code, 0) << ids.err;
  std::vector<int> tokens;
  std::istringstream stream(ids.out);
  for (int token = 0; stream >> token;) tokens.push_back(token);
  ASSERT_GE(tokens.size(), 256U);
  if (tokens[0] != 1) tokens.insert(tokens.begin(), 1);
  for (std::size_t i = 0; i < tokens.size(); i += 128) tokens[i] = 1;  // the vocabulary adds its beginning-of-text token
  const auto [expected, error] = plain_perplexity(model->string(), tokens, 128, 2, "f32");
  const auto json = nlohmann::json::parse(
      run_quern("perplexity " + model->string() + " --precision f32 --context 128" + " --chunks 2 --json --file " + file)
          .out,
      nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_NEAR(json["perplexity"].get<double>(), expected, expected * 1e-5);
  EXPECT_NEAR(json["error"].get<double>(), error, error * 1e-4);
  EXPECT_LT(expected, 12.0) << "the model has seen such stories";
}

}  // namespace
}  // namespace quern
