// quern quantize and quern inspect --verify as a user runs them.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/gguf_builder.hpp"
#include "support/published_models.hpp"
#include "tools/run_quern.hpp"

namespace quern {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class CliQuantizeTest : public testing::Test {
 protected:
  void SetUp() override {
    model_ = folder_.write("model.gguf", text_of(published_model_image(published_models().front(), true)));
    out_ = folder_.file("out.gguf");
  }
  static std::string text_of(const std::vector<std::byte>& bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  [[nodiscard]] ProgramResult quantize(const std::string& arguments) const {
    return run_quern("quantize " + model_ + " " + out_ + " " + arguments);
  }
  [[nodiscard]] nlohmann::json quantize_json(const std::string& arguments) const {
    const ProgramResult result = quantize(arguments + " --json");
    EXPECT_EQ(result.code, 0) << result.err;
    auto json = nlohmann::json::parse(result.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << result.out;
    return json;
  }
  [[nodiscard]] std::string type_of(const nlohmann::json& json, const std::string& tensor) const {
    for (const auto& entry : json["tensors"]) {
      if (entry["name"] == tensor) return entry["type"];
    }
    return "absent";
  }
  void expect_error(const ProgramResult& result, const std::string& sentence) const {
    EXPECT_EQ(result.code, 2);
    EXPECT_EQ(result.err, "quern: " + sentence + "\n");
    EXPECT_EQ(result.out, "");
    EXPECT_FALSE(std::filesystem::exists(out_));
  }

  TestFolder folder_{"quern_cli_quantize"};
  std::string model_, out_;
};

TEST_F(CliQuantizeTest, WritesAModelThatRunsAndSaysWhatItDid) {
  const ProgramResult result = quantize("Q4_K_M --checksums");
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, model_ + " -> " + out_ + "\n")) << result.out;
  EXPECT_TRUE(contains(result.out, "blk.*.attn_q.weight")) << "layers that are alike are one line";
  EXPECT_FALSE(contains(result.out, "blk.0.attn_q.weight"));
  EXPECT_TRUE(contains(result.out, "rows of 64 are no multiple of 256: Q5_0 for Q4_K")) << result.out;
  EXPECT_TRUE(contains(result.out, "bits per weight"));
  EXPECT_TRUE(contains(result.out, "relative RMS error of what was quantized: "));
  EXPECT_TRUE(contains(result.out, "peak memory"));
  const ProgramResult run = run_quern("run " + out_ + " -p ab --tokens 4 --temperature 0");
  EXPECT_EQ(run.code, 0) << run.err;
  const ProgramResult all = quantize("Q4_K_M --all --force");
  EXPECT_TRUE(contains(all.out, "blk.0.attn_q.weight")) << all.out;
}

TEST_F(CliQuantizeTest, JsonHasEveryTensorWithItsError) {
  const auto json = quantize_json("q8_0 --threads 2");
  EXPECT_EQ(json["dry_run"], false);
  EXPECT_GT(json["peak_bytes"], 0);
  std::size_t bytes = 0, quantized = 0;
  for (const auto& tensor : json["tensors"]) {
    bytes += tensor["bytes"].get<std::size_t>();
    EXPECT_EQ(tensor.contains("relative_rms_error"), tensor["quantized"].get<bool>());
    if (!tensor["quantized"].get<bool>()) continue;
    ++quantized;
    EXPECT_GT(tensor["relative_rms_error"], 0.0);
    EXPECT_LT(tensor["relative_rms_error"], 0.01);
  }
  EXPECT_GT(quantized, 0U);
  EXPECT_EQ(json["bytes"], bytes);
  EXPECT_NEAR(json["bits_per_weight"].get<double>(), 8.0 * static_cast<double>(bytes) / json["parameters"].get<double>(),
              1e-9);
  EXPECT_LT(json["relative_rms_error"], 0.01);
}

TEST_F(CliQuantizeTest, ADryRunWritesNothing) {
  const auto json = quantize_json("Q4_0 --dry-run");
  EXPECT_FALSE(std::filesystem::exists(out_));
  EXPECT_FALSE(json.contains("relative_rms_error"));
  const auto written = quantize_json("Q4_0");
  EXPECT_EQ(written["bytes"], json["bytes"]);
  const ProgramResult text = quantize("Q4_0 --dry-run");
  EXPECT_EQ(text.code, 0) << "an existing file is in nobody's way: " << text.err;
  EXPECT_TRUE(contains(text.out, "(dry run: nothing is written)"));
}

TEST_F(CliQuantizeTest, OptionsChooseTypes) {
  const auto json =
      quantize_json("Q4_0 --tensor-type 'blk\\.0\\.attn_(q|k)=Q8_0' --tensor-type attn=q5_1 --keep-output F16 --dry-run");
  EXPECT_EQ(type_of(json, "blk.0.attn_q.weight"), "Q8_0");
  EXPECT_EQ(type_of(json, "blk.1.attn_q.weight"), "Q5_1");
  EXPECT_EQ(type_of(json, "blk.1.ffn_up.weight"), "Q4_0");
  EXPECT_EQ(type_of(json, "output.weight"), "F16");
  EXPECT_EQ(type_of(quantize_json("Q4_0 --dry-run"), "output.weight"), "Q8_0");  // Q6_K does not divide rows of 64
  EXPECT_EQ(type_of(quantize_json("Q4_0 --pure --dry-run"), "output.weight"), "Q4_0");
}

TEST_F(CliQuantizeTest, MistakesAreOneSentence) {
  const std::string here = quantize("Q9_X").err;
  EXPECT_TRUE(here.starts_with("quern: unknown type 'Q9_X'; there are ")) << here;
  expect_error(quantize("Q8_0 --tensor-type attn"), "--tensor-type: expected REGEX=TYPE, found 'attn'");
  expect_error(quantize("Q8_0 --tensor-type attn=Q4_K_M"),
               "--tensor-type: expected a type such as Q4_K, Q8_0 or F16, found 'Q4_K_M'");
  expect_error(quantize("Q8_0 --keep-output IQ1_S"),
               "--keep-output: expected a type such as Q4_K, Q8_0 or F16, found 'IQ1_S'");
  expect_error(quantize("auto:6bpw --pure --file x"), "--pure is for mixes: auto:SIZE chooses a type for each tensor");
  expect_error(quantize("Q8_0 --context 64"), "--file, --quick, --context and --chunks are for the type auto:SIZE");
  expect_error(quantize("Q8_0 --imatrix " + folder_.file("none")), folder_.file("none") + ": no such file or folder");
  expect_error(run_quern("quantize " + folder_.file("none") + " " + out_ + " Q8_0"),
               folder_.file("none") + ": no such file");
}

TEST_F(CliQuantizeTest, NeitherInputNorOtherFilesAreReplacedUnasked) {
  const std::string before = read_text_file(model_);
  const ProgramResult same = run_quern("quantize " + model_ + " " + folder_.file(".") + "/model.gguf Q8_0 --force");
  EXPECT_EQ(same.code, 2);
  EXPECT_TRUE(contains(same.err, "is both what is read and what is to be written")) << same.err;
  EXPECT_EQ(read_text_file(model_), before);

  EXPECT_EQ(folder_.write("out.gguf", "something else"), out_);
  const ProgramResult there = quantize("Q8_0");
  EXPECT_EQ(there.code, 2);
  EXPECT_EQ(there.err, "quern: " + out_ + ": is there already; --force replaces it\n");
  EXPECT_EQ(read_text_file(out_), "something else");
  EXPECT_EQ(quantize("Q8_0 --force").code, 0);
  EXPECT_TRUE(read_text_file(out_).starts_with("GGUF"));
}

TEST_F(CliQuantizeTest, PartsOfASplitModelAreNotReplaced) {
  std::string first;
  for (int part = 0; part < 2; ++part) {
    GgufBuilder builder;
    if (part == 0) builder.text("general.architecture", "llama");
    builder.raw("split.no", gguf::kU16, GgufBuilder::bytes_of_number(static_cast<std::uint16_t>(part)))
        .raw("split.count", gguf::kU16, GgufBuilder::bytes_of_number(std::uint16_t{2}))
        .raw("split.tensors.count", gguf::kI32, GgufBuilder::bytes_of_number(2));
    builder.f32_tensor("blk." + std::to_string(part) + ".attn_q.weight", {256, 2}, std::vector<float>(512, 0.5F));
    const std::string path = folder_.write("m-0000" + std::to_string(part + 1) + "-of-00002.gguf", builder.build_text());
    if (part == 0) first = path;
  }
  const std::string second = folder_.file("m-00002-of-00002.gguf"), before = read_text_file(second);
  const ProgramResult part = run_quern("quantize " + first + " " + second + " Q8_0 --force");
  EXPECT_EQ(part.code, 2);
  EXPECT_EQ(part.err, "quern: " + second + ": is both what is read and what is to be written\n");
  EXPECT_EQ(read_text_file(second), before);
  const std::string beside = folder_.write("m-q8.gguf", "x");
  const ProgramResult good = run_quern("quantize " + first + " " + beside + " Q8_0 --force");
  EXPECT_EQ(good.code, 0) << good.err;
}

TEST_F(CliQuantizeTest, QuantizedSourcesGiveAWarning) {
  ASSERT_EQ(quantize("Q8_0").code, 0);
  const ProgramResult again = run_quern("quantize " + out_ + " " + folder_.file("again.gguf") + " Q4_0");
  EXPECT_EQ(again.code, 0);
  EXPECT_TRUE(contains(again.err, "warning: ")) << again.err;
  EXPECT_TRUE(contains(again.err, "are quantized already")) << again.err;
  EXPECT_FALSE(contains(quantize("Q4_0 --force").err, "warning")) << "floats are no reason for one";
}

TEST_F(CliQuantizeTest, AnInterruptedRunLeavesNothing) {
  // Large enough to be interrupted: 48 MiB of F32 into the type whose search takes longest.
  GgufBuilder builder;
  builder.text("general.architecture", "llama");
  builder.tensor("blk.0.ffn_up.weight", 0, {4096, 3072}, std::string(std::size_t{4096} * 3072 * 4, '\x3D'));
  const std::string large = folder_.write("large.gguf", builder.build_text());
  const ProgramResult result =
      run_shell("timeout --foreground -s INT 0.1 " QUERN_BINARY " quantize " + large + " " + out_ + " Q3_K_S --threads 1");
  EXPECT_FALSE(std::filesystem::exists(out_)) << "done before it was interrupted";
  EXPECT_EQ(result.code, 124);  // timeout's
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(out_).parent_path())) {
    EXPECT_FALSE(contains(entry.path().string(), ".tmp")) << entry.path();
  }
}

TEST_F(CliQuantizeTest, VerifyFindsFlippedBits) {
  ASSERT_EQ(quantize("Q8_0 --checksums").code, 0);
  const ProgramResult good = run_quern("inspect --verify " + out_);
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_TRUE(contains(good.out, "all are as their checksums say")) << good.out;

  const std::string bytes = read_text_file(out_);
  std::string damaged = bytes;
  damaged[bytes.size() - 40] = static_cast<char>(damaged[bytes.size() - 40] ^ 0x10);
  EXPECT_EQ(folder_.write("out.gguf", damaged), out_);
  const ProgramResult bad = run_quern("inspect --verify " + out_);
  EXPECT_EQ(bad.code, 1);
  EXPECT_TRUE(contains(bad.out, "output.weight")) << bad.out;
  EXPECT_TRUE(contains(bad.out, "changed: expected SHA-256 ")) << bad.out;
  EXPECT_TRUE(contains(bad.out, out_ + ": 1 of ")) << bad.out;
  EXPECT_FALSE(contains(bad.out, "blk.0.attn_q.weight"));
  EXPECT_TRUE(contains(run_quern("inspect --verify --tensors " + out_).out, "blk.0.attn_q.weight"));
  const auto json = nlohmann::json::parse(run_quern("inspect --verify --json " + out_).out, nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["intact"], false);
  EXPECT_EQ(json["wrong"], 1);
  EXPECT_EQ(json["tensors"].back()["verdict"], "changed");

  const ProgramResult none = run_quern("inspect --verify " + model_);
  EXPECT_EQ(none.code, 2);
  EXPECT_EQ(none.err, "quern: " + model_ + ": there are no checksums (key 'quern.sha256') to verify\n");
  const ProgramResult other = run_quern("inspect --verify " + folder_.write("text", "no model at all, but long enough"));
  EXPECT_EQ(other.code, 2);
  EXPECT_TRUE(contains(other.err, "only GGUF files have checksums")) << other.err;
}

}  // namespace
}  // namespace quern
