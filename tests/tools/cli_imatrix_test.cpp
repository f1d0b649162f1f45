// quern imatrix and quern quantize auto:SIZE as a user runs them.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "infer/importance_matrix.hpp"
#include "support/published_models.hpp"
#include "tools/run_quern.hpp"
#include "tools/tiny_run.hpp"

namespace quern {
namespace {

class CliImatrix : public WithTinyRun {
 protected:
  CliImatrix() : text_(folder().write("text.txt", cats_text().substr(0, 2000))) {}

  /// A small GGUF model over bytes.
  static std::string gguf() {
    PublishedModel model;
    model.name = model.architecture = "qwen2";
    const std::vector<std::byte> image = published_model_image(model, true);
    return folder().write("model.gguf", std::string(reinterpret_cast<const char*>(image.data()), image.size()));
  }
  std::string text_;
};

TEST_F(CliImatrix, GathersFromACheckpoint) {
  const std::string out = folder().file("m.gguf");
  const ProgramResult result = run_quern("imatrix " + model() + " --file " + text_ + " --context 32 --chunks 9 -o " + out);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "9 chunks of 32 tokens")) << result.out;
  EXPECT_TRUE(contains(result.out, "columns in use")) << result.out;
  const auto matrix = load_importance_matrix(out);
  ASSERT_TRUE(matrix) << matrix.error().message;
  EXPECT_EQ(matrix->chunks, 9);
  EXPECT_EQ(matrix->chunk_tokens, 32);
  EXPECT_EQ(matrix->datasets, std::vector<std::string>{text_});
  ASSERT_TRUE(matrix->weights.contains("blk.1.attn_q.weight"));
  EXPECT_EQ(matrix->weights.at("blk.1.attn_q.weight").counts, std::vector<float>{9.0F * 32.0F});
  EXPECT_FALSE(matrix->weights.contains("output.weight"));
  EXPECT_FALSE(matrix->weights.contains("token_embd.weight"));
}

TEST_F(CliImatrix, JsonHasEveryTensorAndThreadsChangeNothing) {
  const std::string start =
      "imatrix " + gguf() + " --precision f32 --file " + text_ + " --context 32 --json --output-tensor ";
  const auto one = nlohmann::json::parse(run_quern(start + "--threads 1 -o " + folder().file("1.gguf")).out, nullptr, false);
  ASSERT_TRUE(one.is_object());
  EXPECT_EQ(one["tensors"].size(), 3U * 7U + 1U);
  EXPECT_GT(one["tensors"][0]["largest_share"].get<double>(), 0.0);
  ASSERT_EQ(run_quern(start + "--threads 3 -o " + folder().file("3.gguf")).code, 0);
  EXPECT_EQ(read_text_file(folder().file("1.gguf")), read_text_file(folder().file("3.gguf")));
}

TEST_F(CliImatrix, MistakesGetASentence) {
  const std::string out = folder().file("none.gguf");
  expect_refused("imatrix " + model() + " -o " + out, "--file");
  expect_refused("imatrix " + model() + " --file " + text_, "--out");
  expect_refused("imatrix " + model() + " --file " + folder().file("absent.txt") + " -o " + out, "absent.txt");
  expect_refused("imatrix " + model() + " --context 64 --file " + folder().write("short.txt", "the cat") + " -o " + out,
                 "7 tokens are less than one chunk of 64");
  expect_refused("imatrix " + text_ + " --file " + text_ + " -o " + out, "text.txt");
  const std::string in = gguf(), before = read_text_file(in), start = "imatrix " + in + " --context 32 --file " + text_;
  expect_refused(start + " --force -o " + in, "is both what is read and what is to be written");
  expect_refused(start + " --force -o " + text_, "is both what is read and what is to be written");
  expect_refused(start + " -o " + folder().write("there", "mine"), "there: is there already; --force replaces it");
  expect_refused(start + " -o ''", "the name of the file to write is empty");
  EXPECT_EQ(run_quern(start + " -o " + folder().file("absent/m")).code, 1) << "told before the work";
  EXPECT_EQ(read_text_file(in), before);
  EXPECT_EQ(read_text_file(folder().file("there")), "mine");
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST_F(CliImatrix, InterruptedWritesNothing) {
  const std::string text = folder().write("long.txt", std::string(4'000'000, 'a'));
  const std::string out = folder().file("interrupted.gguf");
  // Without --foreground timeout signals the process and then its group: a second signal, which ends the program at once.
  const std::string run = " 2 " QUERN_BINARY " imatrix " + model() + " --file " + text + " -o " + out;
  const ProgramResult result = run_shell("timeout --foreground --preserve-status -s INT" + run);
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_TRUE(contains(result.err, "interrupted: nothing was written")) << result.err;
  const ProgramResult ended = run_shell("timeout --foreground --preserve-status -s TERM" + run);
  EXPECT_EQ(ended.code, 143) << ended.err;
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST_F(CliImatrix, AutoQuantizesToASize) {
  const std::string in = gguf();
  const std::string out = folder().file("auto.gguf");
  const std::string start = "quantize " + in + " " + out + " --force --context 32 --file " + text_;
  const ProgramResult text = run_quern(start + " auto:6.5bpw");
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_TRUE(contains(text.out, "sensitivity")) << text.out;
  EXPECT_TRUE(contains(text.out, "predicted: a mean KL divergence")) << text.out;

  const std::size_t size = std::filesystem::file_size(in) / 4;
  const std::string json_text = run_quern(start + " --quick --json AUTO:" + std::to_string(size)).out;
  const auto json = nlohmann::json::parse(json_text, nullptr, false);
  ASSERT_TRUE(json.is_object()) << json_text;
  EXPECT_GT(json["auto"]["predicted_kl"].get<double>(), 0.0);
  EXPECT_EQ(json["auto"]["tensors"].size(), 3U * 7U + 2U);
  EXPECT_LE(std::filesystem::file_size(out), size);
  EXPECT_GT(std::filesystem::file_size(out), size * 3 / 4);
  EXPECT_EQ(run_quern("run " + out + " -p the -n 3").code, 0);

  const std::string matrix = folder().file("given.gguf");
  ASSERT_EQ(run_quern("imatrix " + in + " --context 32 --file " + text_ + " -o " + matrix).code, 0);
  EXPECT_EQ(run_quern(start + " auto:6.5bpw --imatrix " + matrix).code, 0);
}

TEST_F(CliImatrix, AutoSaysWhatItLacks) {
  const std::string start = "quantize " + gguf() + " " + folder().file("refused.gguf") + " ";
  expect_refused(start + "auto:6bpw", "--file");
  expect_refused(start + "auto:sixbpw --file " + text_, "'sixbpw'");
  expect_refused(start + "auto:1bpw --context 32 --file " + text_, "1 bits per weight are too few");
  expect_refused(start + "Q8_0 --quick", "auto:SIZE");
  EXPECT_FALSE(std::filesystem::exists(folder().file("refused.gguf")));
}

}  // namespace
}  // namespace quern
