// quern tokenize and quern detokenize, as users run them.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "model/byte_alphabet.hpp"
#include "model/tokenizer.hpp"
#include "support/gguf_builder.hpp"
#include "support/shared_data.hpp"
#include "tools/run_quern.hpp"

namespace quern {
namespace {

// Byte tokens 0 to 255, "ab" 256, <|end|> 257 (control); bos is 257 and wanted.
std::string small_gguf() {
  std::vector<std::string> texts;
  std::vector<std::int32_t> kinds(257, 1);
  for (int byte = 0; byte < 256; ++byte) texts.push_back(spell_bytes(std::string(1, static_cast<char>(byte))));
  texts.insert(texts.end(), {"ab", "<|end|>"});
  kinds.push_back(3);
  GgufBuilder builder;
  builder.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
  builder.texts("tokenizer.ggml.tokens", texts).i32s("tokenizer.ggml.token_type", kinds);
  builder.texts("tokenizer.ggml.merges", {"a b"});
  builder.u32("tokenizer.ggml.bos_token_id", 257).boolean("tokenizer.ggml.add_bos_token", true);
  return builder.build_text();
}

TEST(CliTokenize, IdsTokensAndJson) {
  const TestFolder folder("quern_cli_tokenize");
  const std::string model = folder.write("small.gguf", small_gguf());
  const std::string text = folder.write("text", "ab\n\"c\xC3\xA9<|end|>");
  ProgramResult result = run_quern("tokenize " + model + " --file " + text + " --ids");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out, "256 10 34 99 195 169 257\n");
  EXPECT_EQ(run_quern("tokenize " + model + " --ids --bos 'ab<|end|>'").out, "257 256 257\n");
  EXPECT_EQ(run_quern("tokenize " + model + " --ids --no-special 'ab<|'").out, "256 60 124\n");
  EXPECT_EQ(run_quern("tokenize " + model + " --ids ''").out, "\n");
  EXPECT_EQ(run_quern("tokenize " + model + " --file " + text).out,
            "   256 \"ab\"\n    10 \"\\n\"\n    34 \"\\\"\"\n    99 \"c\"\n   195 \"\\xC3\"\n   169 \"\\xA9\"\n   257 "
            "\"<|end|>\"\n");
  EXPECT_EQ(run_shell("printf abab | " QUERN_BINARY " tokenize " + model + " --ids").out, "256 256\n");
  const auto json = nlohmann::json::parse(run_quern("tokenize " + model + " --json 'ab<|end|>'").out, nullptr, false);
  EXPECT_EQ(json["ids"], nlohmann::json({256, 257}));
  EXPECT_EQ(json["tokens"], nlohmann::json({"ab", "<|end|>"}));
}

TEST(CliTokenize, DetokenizeGivesTheTextBack) {
  const TestFolder folder("quern_cli_detokenize");
  const std::string model = folder.write("small.gguf", small_gguf());
  EXPECT_EQ(run_quern("detokenize " + model + " 256 10 257").out, "ab\n<|end|>");
  EXPECT_EQ(run_quern("detokenize " + model + " 256,10,257 --no-special").out, "ab\n");
  EXPECT_EQ(run_quern("detokenize " + model + " --json 256").out, "{\"text\":\"ab\"}\n");
  EXPECT_EQ(run_quern("detokenize " + model + " --file " + folder.write("ids", "[256, 256]\n")).out, "abab");
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes.push_back(static_cast<char>(i));
  const std::string file = folder.write("bytes", bytes);
  EXPECT_EQ(
      run_shell(QUERN_BINARY " tokenize " + model + " --ids --file " + file + " | " QUERN_BINARY " detokenize " + model).out,
      bytes);
}

TEST(CliTokenize, ReadsTokenizerJsonToo) {
  const TestFolder folder("quern_cli_tokenizer_json");
  const std::string json = folder.write("tokenizer.json", Tokenizer::bytes(true).to_huggingface_json());
  EXPECT_EQ(run_quern("tokenize --ids " + json + " 'a<|endoftext|>'").out, "97 256\n");
  EXPECT_EQ(run_quern("tokenize --ids " + json.substr(0, json.rfind('/')) + " a").out, "97\n") << "the folder with it";
}

TEST(CliTokenize, BadInputIsOneSentence) {
  const TestFolder folder("quern_cli_tokenize_errors");
  const std::string model = folder.write("small.gguf", small_gguf());
  const auto expect_bad_input = [](const std::string& arguments, const std::string& part) {
    const ProgramResult result = run_quern(arguments);
    EXPECT_EQ(result.code, 2) << arguments;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(result.out, "");
  };
  expect_bad_input("tokenize", "MODEL is required");
  expect_bad_input("tokenize missing.gguf x", "missing.gguf: no such file or folder");
  expect_bad_input("tokenize " + folder.write("text", "text") + " x", "expected a GGUF model");
  expect_bad_input("tokenize " + folder.write("cut.gguf", "GGUF") + " x", "cut.gguf");
  expect_bad_input("tokenize " + folder.write("tokenizer.json", "{}") + " x", "tokenizer.json: tokenizer: key `model.type`");
  expect_bad_input("tokenize " + model + " x --file y", "expected one of them");
  expect_bad_input("tokenize " + model + " --file missing.txt", "missing.txt");
  expect_bad_input("tokenize /dev/null x", "expected a regular file, found a device or pipe");
  expect_bad_input("detokenize " + model + " 258", "IDS: expected ids from 0 to 257, found `258`");
  expect_bad_input("detokenize " + model + " 1x", "found `1x`");
}

TEST(CliTokenizeShared, FilesAndIds) {
  const auto model = shared_data("testdata/tokenizers/gpt-2.gguf");
  if (!model) GTEST_SKIP() << "shared data absent: testdata/tokenizers/gpt-2.gguf";
  const std::string path = model->string();
  EXPECT_EQ(run_quern("tokenize --ids " + path + " 'Hello world'").out, "15496 995\n");
  EXPECT_EQ(run_quern("detokenize " + path + " 15496 995").out, "Hello world");
}

}  // namespace
}  // namespace quern
