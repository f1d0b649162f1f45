// quern inspect: GGUF files, checkpoints, run folders, corpora; text and JSON; what is none of them.
#include <gtest/gtest.h>

#include <algorithm>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/gguf_builder.hpp"
#include "support/shared_data.hpp"
#include "tools/run_quern.hpp"

namespace quern {
namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

nlohmann::json inspect_json(const std::string& arguments) {
  const ProgramResult result = run_quern("inspect --json " + arguments);
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(result.err.empty()) << result.err;
  auto json = nlohmann::json::parse(result.out, nullptr, false);
  EXPECT_TRUE(json.is_object()) << result.out;
  return json;
}

// Two layers of a llama, 4 heads of 8 with 2 for keys and values.
std::string small_llama() {
  GgufBuilder builder;
  builder.text("general.architecture", "llama")
      .u32("llama.context_length", 128)
      .u32("llama.embedding_length", 32)
      .u32("llama.block_count", 2)
      .u32("llama.feed_forward_length", 64)
      .u32("llama.attention.head_count", 4)
      .u32("llama.attention.head_count_kv", 2)
      .u32("llama.rope.dimension_count", 8)
      .f32("llama.attention.layer_norm_rms_epsilon", 1e-5F)
      .u32("llama.vocab_size", 40)
      .text("general.name", std::string("wicked \x1B[31m") + std::string(500, 'n'));
  std::vector<std::string> tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back("token" + std::to_string(i));
  builder.texts("tokenizer.ggml.tokens", tokens);
  const std::vector<float> values(64 * 40, 0.25F);
  const auto matrix = [&](const std::string& name, std::int64_t inputs, std::int64_t outputs) {
    builder.f32_tensor(name, {inputs, outputs}, std::span(values).first(static_cast<std::size_t>(inputs * outputs)));
  };
  matrix("token_embd.weight", 32, 40);
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    builder.f32_tensor(layer + "attn_norm.weight", {32}, std::span(values).first(32));
    matrix(layer + "attn_q.weight", 32, 32);
    matrix(layer + "attn_k.weight", 32, 16);
    matrix(layer + "attn_v.weight", 32, 16);
    matrix(layer + "attn_output.weight", 32, 32);
    builder.f32_tensor(layer + "ffn_norm.weight", {32}, std::span(values).first(32));
    matrix(layer + "ffn_gate.weight", 32, 64);
    matrix(layer + "ffn_up.weight", 32, 64);
    builder.tensor(layer + "ffn_down.weight", 8, {64, 32}, std::string(std::size_t{64} * 32 / 32 * 34, '\1'));
  }
  builder.f32_tensor("output_norm.weight", {32}, std::span(values).first(32));
  return builder.build_text();
}

TEST(CliInspect, DescribesAGgufFile) {
  const TestFolder folder("quern_cli_inspect");
  const std::string file = folder.write("model.gguf", small_llama());
  const ProgramResult text = run_quern("inspect " + file);
  ASSERT_EQ(text.code, 0) << text.err;
  for (const char* part : {"GGUF version 3", "llama.block_count", "40 strings: 'token0'", "blk.*.ffn_down.weight", "Q8_0",
                           "[64, 32]", "(2 tensors)", "128 tokens of context", "wicked \\x1B[31m"}) {
    EXPECT_TRUE(contains(text.out, part)) << part << "\n" << text.out;
  }
  EXPECT_FALSE(contains(text.out, "\x1B"));
  EXPECT_FALSE(contains(text.out, "blk.1.ffn_down.weight"));
  EXPECT_TRUE(contains(run_quern("inspect --tensors " + file).out, "blk.1.ffn_down.weight"));

  const auto json = inspect_json(file);
  EXPECT_EQ(json["file"], file);
  EXPECT_EQ(json["kind"], "gguf");
  EXPECT_EQ(json["version"], 3);
  EXPECT_EQ(json["parts"], 1);
  EXPECT_EQ(json["alignment"], 32);
  EXPECT_EQ(json["file_bytes"], small_llama().size());
  EXPECT_EQ(json["metadata"]["llama.block_count"], nlohmann::json({{"type", "u32"}, {"value", 2}}));
  EXPECT_EQ(json["metadata"]["tokenizer.ggml.tokens"]["count"], 40);
  EXPECT_EQ(json["metadata"]["tokenizer.ggml.tokens"]["element_type"], "string");
  EXPECT_EQ(json["metadata"]["tokenizer.ggml.tokens"]["first"].size(), 16U);
  EXPECT_EQ(json["tensor_count"], 20);
  constexpr std::int64_t kQ8 = 2 * 64 * 32, kF32 = 32 * 40 + 2 * (64 + 3072 + 4096) + 32;
  EXPECT_EQ(json["parameters"], kF32 + kQ8);
  EXPECT_EQ(json["types"]["F32"], nlohmann::json({{"tensors", 18}, {"parameters", kF32}, {"bytes", kF32 * 4}}));
  EXPECT_EQ(json["types"]["Q8_0"], nlohmann::json({{"tensors", 2}, {"parameters", kQ8}, {"bytes", kQ8 / 32 * 34}}));
  EXPECT_EQ(json["tensor_bytes"], kF32 * 4 + kQ8 / 32 * 34);
  ASSERT_EQ(json["tensors"].size(), 20U);
  EXPECT_EQ(json["tensors"][9]["name"], "blk.0.ffn_down.weight");
  EXPECT_EQ(json["tensors"][9]["shape"], nlohmann::json({64, 32}));
  EXPECT_EQ(json["tensors"][9]["bytes"], kQ8 / 32 * 17);
  ASSERT_TRUE(json["memory"].is_array()) << json["memory_error"];
  ASSERT_EQ(json["memory"].size(), 1U);
  EXPECT_EQ(json["memory"][0]["context_tokens"], 128);
  EXPECT_EQ(json["memory"][0]["weight_bytes"], json["tensor_bytes"]);
  EXPECT_TRUE(json["memory"][0]["kv_cache_bytes"]["q8_0"].is_null());  // heads of 8

  // Keys and values of 2 layers with 2 heads of 8.
  const auto longer = inspect_json("--context 1024 " + file)["memory"][0];
  EXPECT_EQ(longer["context_tokens"], 1024);
  EXPECT_EQ(longer["kv_cache_bytes"]["f16"], 2 * 2 * 2 * 8 * 1024 * 2);
  EXPECT_EQ(
      longer["total_bytes"]["f16"].get<std::int64_t>(),
      longer["weight_bytes"].get<std::int64_t>() + longer["working_bytes"].get<std::int64_t>() + 2 * 2 * 2 * 8 * 1024 * 2);
}

TEST(CliInspect, AFileThatCannotRunIsDescribedAllTheSame) {
  const TestFolder folder("quern_cli_inspect_vocabulary");
  const std::string file = folder.write(
      "x.gguf",
      GgufBuilder().text("general.architecture", "abacus").f32_tensor("t", {1}, std::vector<float>{1}).build_text());
  const auto json = inspect_json(file);
  EXPECT_TRUE(json["memory"].is_null());
  EXPECT_TRUE(contains(json["memory_error"].get<std::string>(), "abacus")) << json["memory_error"];
  EXPECT_EQ(json["parameters"], 1);
  EXPECT_TRUE(contains(run_quern("inspect " + file).out, "abacus"));
}

TEST(CliInspect, DescribesARunAndItsCheckpointAndCorpus) {
  const TestFolder folder("quern_cli_inspect_run");
  std::string text;
  for (int i = 0; i < 300; ++i) text += "the cat " + std::to_string(i) + " sat on the mat\n";
  const std::string corpus = folder.file("cats.h5"), run = folder.file("run");
  ASSERT_EQ(run_quern("data prepare " + folder.write("cats.txt", text) + " --tokenizer byte --out " + corpus).code, 0);
  const std::string yaml = folder.write("run.yaml", "run:\n  dir: " + run + "\ndata:\n  corpus: " + corpus +
                                                        "\nmodel:\n  layers: 1\n  width: 32\n  heads: 2\n  context: 32\n"
                                                        "train:\n  steps: 2\n  batch: 2\nsystem:\n  threads: 1\n");
  const ProgramResult trained = run_quern("train " + yaml);
  ASSERT_EQ(trained.code, 0) << trained.err;

  const auto json = inspect_json(run);
  EXPECT_EQ(json["kind"], "checkpoint");
  EXPECT_EQ(json["step"], 2);
  EXPECT_EQ(json["has_optimizer"], true);
  EXPECT_EQ(json["model"]["layers"], 1);
  EXPECT_EQ(json["tensors"][0]["name"], "token_embd.weight");
  EXPECT_EQ(json["tensors"][0]["shape"][1], 32);
  EXPECT_EQ(json["tensor_bytes"].get<std::int64_t>(), json["parameters"].get<std::int64_t>() * 4);
  EXPECT_EQ(json["memory"][0]["context_tokens"], 32);
  EXPECT_EQ(inspect_json(run + "/checkpoints/last.h5")["step"], 2);
  EXPECT_TRUE(contains(run_quern("inspect " + run).out, "checkpoint of step 2"));

  const auto tokens = inspect_json(corpus);
  EXPECT_EQ(tokens["kind"], "corpus");
  EXPECT_EQ(tokens["source_bytes"], text.size());
  EXPECT_TRUE(contains(run_quern("inspect " + corpus).out, "bytes per token"));
}

TEST(CliInspect, BadInputExitsWithTwo) {
  const TestFolder folder("quern_cli_inspect_bad");
  const auto expect = [&](const std::string& arguments, const std::string& part) {
    const ProgramResult result = run_quern("inspect " + arguments);
    EXPECT_EQ(result.code, 2) << arguments << ": " << result.err;
    EXPECT_EQ(result.err.rfind("quern: ", 0), 0U) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_TRUE(contains(result.err, part)) << result.err;
    EXPECT_TRUE(result.out.empty()) << result.out;
  };
  expect(folder.file("absent.gguf"), "no such file");
  expect(folder.write("letter.txt", "Dear Sir"), "begins with 'Dear Sir'");
  expect(folder.write("empty", ""), "the file is empty");
  expect("/dev/null", "expected a regular file");
  expect(folder.write("cut.gguf", small_llama().substr(0, 3000)), "cut.gguf");
  expect(folder.write("hostile.gguf", GgufBuilder().tensor_count(~std::uint64_t{0}).build_text()),
         "at most 1048576 tensors");
  expect(folder.write("bad.h5", "\x89HDF\r\n\x1A\n and no more"), "bad.h5");
  expect(folder.write("bad.ckpt", "QUERNCKP and no more"), "bad.ckpt");
  expect(folder.file(""), "checkpoint");
  expect(folder.write("model.gguf", small_llama()) + " --context 0", "--context");
}

TEST(CliInspect, DescribesRealFiles) {
  const auto tiny = shared_data("testdata/tiny");
  if (!tiny) GTEST_SKIP() << "shared data absent: testdata/tiny";
  const auto json = inspect_json((*tiny / "tiny-gpt-oss.gguf").string());
  EXPECT_EQ(json["metadata"]["general.architecture"]["value"], "gpt-oss");
  EXPECT_EQ(json["tensor_count"], 79);
  EXPECT_TRUE(json["memory"].is_array()) << json["memory_error"];
  const auto words = inspect_json((*tiny / "../tokenizers/gpt-2.gguf").string());
  EXPECT_EQ(words["metadata"]["tokenizer.ggml.tokens"]["count"], 50257);
  EXPECT_EQ(words["tensor_count"], 0);
  EXPECT_TRUE(words["memory"].is_null());
}

}  // namespace
}  // namespace quern
