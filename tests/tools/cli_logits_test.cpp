// quern logits as a user runs it: shape, chunks, agreement with quern run, recorded logits, errors.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "support/shared_data.hpp"
#include "tools/npy_matrix.hpp"
#include "tools/run_quern.hpp"
#include "tools/tiny_run.hpp"

namespace quern {
namespace {

class CliLogits : public WithTinyRun {};

TEST_F(CliLogits, AnyChunkingGivesTheSameFile) {
  const std::string out = folder().file("logits.npy");
  const std::string start = "logits " + model() + " --tokens 116,104,101,32,99,97,116 --precision f32 -o " + out;
  std::string expected;
  for (const char* chunk : {"", " --chunk 1", " --chunk 3", " --chunk 7 --threads 1", " --chunk 99"}) {
    const ProgramResult result = run_quern(start + chunk);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.out + result.err, "");
    const std::string bytes = read_text_file(out);
    if (expected.empty()) expected = bytes;
    EXPECT_TRUE(bytes == expected) << chunk;
  }
  const NpyMatrix matrix = read_npy(out);
  EXPECT_EQ(matrix.rows, 7U);
  ASSERT_GE(matrix.columns, 256U);
  // The last row is what quern run draws from.
  const auto run = nlohmann::json::parse(
      run_quern("run " + model() + " -p 'the cat' -n 1 --temperature 0 --precision f32 --json").out, nullptr, false);
  ASSERT_TRUE(run.is_object());
  const float* last = matrix.row(6);
  const auto likeliest = std::max_element(last, last + matrix.columns) - last;
  EXPECT_EQ(run["tokens"][0], likeliest);
  double sum = 0.0;
  for (std::size_t i = 0; i < matrix.columns; ++i) sum += std::exp(static_cast<double>(last[i]));
  EXPECT_NEAR(run["log_probabilities"][0]["log_probability"].get<double>(), last[likeliest] - std::log(sum), 1e-5);
}

TEST_F(CliLogits, MistakesGetASentenceAndNoFile) {
  const std::string out = folder().file("none.npy");
  expect_refused("logits " + model() + " --tokens 1,x,2 -o " + out, "--tokens: `x`");
  expect_refused("logits " + model() + " --tokens '' -o " + out, "--tokens");
  expect_refused("logits " + model() + " --tokens 1, -o " + out, "--tokens: ``");
  expect_refused("logits " + model() + " --tokens 1,100000 -o " + out, "100000");
  expect_refused("logits " + model() + " --tokens -1 -o " + out, "-1");
  expect_refused("logits " + model() + " --tokens 1", "--out");
  expect_refused("logits " + folder().file("absent.h5") + " --tokens 1 -o " + out, "absent.h5");
  EXPECT_FALSE(std::filesystem::exists(out));
  EXPECT_EQ(run_quern("logits " + model() + " --tokens 1,2 -o /nowhere/logits.npy").code, 1);
}

/// The tokens, and the logits of a float64 reference for them.
void expect_recorded(const std::string& gguf, const std::string& logits, const std::string& tokens, double tolerance) {
  const auto model = shared_data(gguf);
  const auto recorded = shared_data(logits);
  if (!model || !recorded) GTEST_SKIP() << "shared data absent: " << gguf;
  const std::string bytes = read_text_file(*recorded);
  std::vector<float> expected(bytes.size() / sizeof(float));
  std::memcpy(expected.data(), bytes.data(), expected.size() * sizeof(float));
  const TestFolder folder("quern_cli_logits");
  for (const char* chunk : {"0", "7"}) {
    const std::string out = folder.file("logits.npy");
    const ProgramResult result = run_quern("logits " + model->string() + " --tokens " + tokens +
                                           " --precision f32 --chunk " + std::string(chunk) + " -o " + out);
    ASSERT_EQ(result.code, 0) << result.err;
    const NpyMatrix matrix = read_npy(out);
    ASSERT_EQ(matrix.values.size(), expected.size());
    double worst = 0.0;
    for (std::size_t i = 0; i < expected.size(); ++i)
      worst = std::max(worst, std::abs(double{matrix.values[i]} - expected[i]));
    EXPECT_LE(worst, tolerance);
  }
}

TEST(CliLogitsShared, StoriesModel) {
  expect_recorded("testdata/stories260K/stories260K-f32.gguf", "testdata/stories260K/golden_logits_16x512.f32",
                  "1,403,407,261,378,432,383,286,261,376,298,315,421,395,317,426", 1e-3);
}

TEST(CliLogitsShared, TinyLlama) {
  std::string tokens;
  for (int i = 0; i < 48; ++i) tokens += (i > 0 ? "," : "") + std::to_string(300 + (7919 * i + 31 * i * i) % 200);
  expect_recorded("testdata/tiny/tiny-llama.gguf", "testdata/tiny/tiny-llama.logits.f32", tokens, 1e-3);
}

}  // namespace
}  // namespace quern
