// Tokenizers of GGUF files: the shared vocabularies with the ids they must give, and small ones made here.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "model/gguf_file.hpp"
#include "model/tokenizer.hpp"
#include "support/shared_data.hpp"

namespace quern {
namespace {

using Ids = std::vector<std::int32_t>;

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class SharedTokenizer : public testing::TestWithParam<const char*> {};

TEST_P(SharedTokenizer, GivesTheRecordedIdsAndDecodesThem) {
  const std::string name = std::string("testdata/tokenizers/") + GetParam();
  const auto path = shared_data(name + ".gguf");
  if (!path) GTEST_SKIP() << "shared data absent: " << name;
  const auto file = GgufFile::open(*path);
  ASSERT_TRUE(file) << file.error().message;
  const auto tokenizer = Tokenizer::from_gguf(*file);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;

  const std::string texts = read_file(*shared_data(name + ".inp"));
  std::istringstream ids(read_file(*shared_data(name + ".out")));
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::size_t cases = 0;
  for (std::size_t begin = 0;; ++cases) {
    const std::size_t end = texts.find(separator, begin);
    if (end == std::string::npos) break;
    const std::string text = texts.substr(begin, end - begin);
    begin = end + separator.size();
    std::string line;
    ASSERT_TRUE(std::getline(ids, line));
    std::istringstream numbers(line);
    const Ids expected{std::istream_iterator<std::int32_t>(numbers), {}};
    const auto found = tokenizer->encode(text);
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(*found, expected) << "'" << text << "'";
    EXPECT_EQ(tokenizer->decode(*found), text);
    EXPECT_EQ(*tokenizer->encode(text, {.parse_special = true}), expected) << "none of the texts has special tokens";
    StreamingDecoder stream(*tokenizer);
    std::string streamed;
    for (const std::int32_t id : *found) streamed += stream.push(id);
    EXPECT_EQ(streamed + stream.finish(), text);
  }
  EXPECT_GT(cases, 40U);
}

INSTANTIATE_TEST_SUITE_P(All, SharedTokenizer,
                         testing::Values("gpt-2", "llama-spm", "phi-3", "deepseek-llm", "llama-bpe", "gpt-oss"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace quern
