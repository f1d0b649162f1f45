// Reading Hugging Face's tokenizer.json: published files, our own exports, and small files made here.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "model/gguf_file.hpp"
#include "model/tokenizer.hpp"
#include "support/shared_data.hpp"

namespace quern {
namespace {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(HuggingFaceShared, Llama3GivesTheIdsOfTheGgufVocabulary) {
  const auto json = shared_data("testdata/hf/llama3-tokenizer.json");
  const auto gguf = shared_data("testdata/tokenizers/llama-bpe.gguf");
  if (!json || !gguf) GTEST_SKIP() << "shared data absent: testdata/hf/llama3-tokenizer.json";
  const auto from_json = Tokenizer::from_huggingface_json(read_file(*json), json->string());
  ASSERT_TRUE(from_json) << from_json.error().message;
  const auto file = GgufFile::open(*gguf);
  ASSERT_TRUE(file) << file.error().message;
  const auto from_gguf = Tokenizer::from_gguf(*file);
  ASSERT_TRUE(from_gguf) << from_gguf.error().message;
  EXPECT_EQ(from_json->vocab_size(), from_gguf->vocab_size());
  EXPECT_EQ(from_json->special_tokens().bos, from_gguf->special_tokens().bos);
  const std::string texts = read_file(*shared_data("testdata/tokenizers/llama-bpe.inp"));
  const std::string special = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>";
  for (const std::string& text : {texts, special, read_file(*shared_data("testdata/text/wiki.test.raw"))}) {
    for (const bool parse : {false, true}) {
      EXPECT_EQ(*from_json->encode(text, {.parse_special = parse}), *from_gguf->encode(text, {.parse_special = parse}));
    }
  }
}

TEST(HuggingFaceShared, TinyFoldersEqualTheirGgufVocabularies) {
  for (const std::string name : {"tiny-llama", "tiny-gpt2", "tiny-qwen3", "tiny-gpt-oss"}) {
    const auto json = shared_data("testdata/hf/" + name + "/tokenizer.json");
    const auto gguf = shared_data("testdata/tiny/" + name + ".gguf");
    if (!json || !gguf) GTEST_SKIP() << "shared data absent: testdata/hf";
    const auto from_json = Tokenizer::from_huggingface_json(read_file(*json), json->string());
    ASSERT_TRUE(from_json) << from_json.error().message;
    const auto file = GgufFile::open(*gguf);
    ASSERT_TRUE(file) << file.error().message;
    const auto from_gguf = Tokenizer::from_gguf(*file);
    ASSERT_TRUE(from_gguf) << from_gguf.error().message;
    const std::string text = "token to tokens, 12 o'clock\n\n gr\xC3\xBC\xC3\x9F \xF0\x9F\x98\x80";
    EXPECT_EQ(*from_json->encode(text), *from_gguf->encode(text)) << name;
    EXPECT_EQ(from_json->decode(*from_json->encode(text)), text);
  }
}

}  // namespace
}  // namespace quern
