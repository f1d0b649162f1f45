// Reading Hugging Face's tokenizer.json: published files, our own exports, and small files made here.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "model/bpe.hpp"
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

// ---- Small files made here.

using Ids = std::vector<std::int32_t>;
using Json = nlohmann::json;

Json small() {
  return Json::parse(R"({
    "version": "1.0",
    "added_tokens": [
      {"id": 0, "content": "<unk>", "special": true, "normalized": false},
      {"id": 1, "content": "<s>", "special": true, "normalized": false},
      {"id": 9, "content": "<call>", "special": false, "normalized": false, "lstrip": true, "rstrip": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
      "vocab": {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "b": 4, "ab": 5, "▁ab": 6, "<0xC3>": 7, "<0xA9>": 8},
      "merges": ["a b", ["▁", "ab"]]}})");
}

Result<Tokenizer> read(const Json& json) { return Tokenizer::from_huggingface_json(json.dump(), "x/tokenizer.json"); }

TEST(HuggingFace, ConvertedFromSentencePiece) {
  const auto tokenizer = read(small());
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->kind(), TokenizerKind::sentencepiece);
  EXPECT_EQ(tokenizer->vocab_size(), 10);
  EXPECT_EQ(*tokenizer->encode("ab ab"), (Ids{6, 6}));
  EXPECT_EQ(tokenizer->decode(Ids{6, 6}), "ab ab");
  EXPECT_EQ(*tokenizer->encode("ba\u00E9"), (Ids{2, 4, 3, 7, 8}));
  EXPECT_EQ(*tokenizer->encode("axyb"), (Ids{2, 3, 0, 4})) << "unknown characters in a row are one token";
  EXPECT_EQ(*tokenizer->encode("ab  <call> \n ab"), (Ids{6, 9, 6}));
  EXPECT_EQ(*tokenizer->encode("<s>ab", {.parse_special = true}), (Ids{1, 6}));
  EXPECT_EQ(*tokenizer->encode("ab", {.add_special = true}), (Ids{1, 6}));
  EXPECT_EQ(tokenizer->special_tokens().bos, 1);
  EXPECT_TRUE(tokenizer->special_tokens().add_bos);
  EXPECT_TRUE(tokenizer->special_tokens().add_space_prefix);
}

TEST(HuggingFace, Metaspace) {
  Json json = small();
  json["normalizer"] = nullptr;
  json["decoder"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}};
  json["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}, {"split", false}};
  const auto first = read(json);
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_EQ(*first->encode("ab<call>ab"), (Ids{6, 9, 5})) << "only the start of the text gets a space";
  EXPECT_EQ(*first->encode(" ab"), (Ids{6})) << "and none where there is one";
  json["pre_tokenizer"]["prepend_scheme"] = "never";
  EXPECT_EQ(*read(json)->encode("ab ab"), (Ids{5, 6}));
  json["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"add_prefix_space", true}};
  EXPECT_EQ(*read(json)->encode("ab<call>ab"), (Ids{6, 9, 6}));
  json["pre_tokenizer"]["replacement"] = "_";
  EXPECT_FALSE(read(json));
}

TEST(HuggingFace, NormalizedAddedTokensAreSoughtInTheNormalizedText) {
  Json json = small();
  json["normalizer"] = {{"type", "NFC"}};
  json["added_tokens"].push_back({{"id", 10}, {"content", "\u00E9!"}, {"special", false}, {"normalized", true}});
  json["added_tokens"].push_back({{"id", 11}, {"content", "e\u0301?"}, {"special", false}, {"normalized", false}});
  const auto tokenizer = read(json);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(*tokenizer->encode("ae\u0301!"), (Ids{3, 10}));
  EXPECT_EQ(*tokenizer->encode("a\u00E9?e\u0301?"), (Ids{3, 7, 8, 0, 11}));
  EXPECT_EQ(*tokenizer->encode("e\u0301"), (Ids{7, 8})) << "composed first";
}

TEST(HuggingFace, ANormalizerCannotTakeAllMemory) {
  Json json = small();
  Json steps = Json::array();
  for (int i = 0; i < 40; ++i) {
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(100, 'a')}});
  }
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  const auto tokenizer = read(json);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_TRUE(tokenizer->encode("b"));
  EXPECT_NE(tokenizer->encode("a").error().message.find("normalizer"), std::string::npos);
}

TEST(HuggingFace, OwnExportsReadBackTheSame) {
  const std::string text = "the end of the thing; \u00E9t\u00E9 \xFF\n\n 12 the then";
  const Tokenizer bpe = *Tokenizer::bpe(std::vector<TokenPair>{{'t', 'h'}, {256, 'e'}, {' ', 257}}, true);
  for (const Tokenizer& own : {bpe, Tokenizer(), Tokenizer::bytes(true)}) {
    const auto back = Tokenizer::from_huggingface_json(own.to_huggingface_json(), "own");
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(back->vocab_size(), own.vocab_size());
    for (const bool parse : {false, true}) {
      EXPECT_EQ(*back->encode(text + "<|endoftext|>", {.parse_special = parse}),
                *own.encode(text + "<|endoftext|>", {.parse_special = parse}));
    }
    EXPECT_EQ(back->decode(*own.encode(text)), text);
  }
  for (const std::vector<std::int32_t>& points : {std::vector<std::int32_t>{'\n', ' ', 'a', 0xE9}, {' ', 'a'}}) {
    const Tokenizer own = *Tokenizer::characters(points, true);
    const auto back = Tokenizer::from_huggingface_json(own.to_huggingface_json(), "own");
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(*back->encode("a a  a"), *own.encode("a a  a"));
    EXPECT_EQ(back->decode(*own.encode(" a a")), " a a");
    EXPECT_FALSE(back->encode("ab"));
  }
}

TEST(HuggingFace, StepsOfByteLevelFiles) {
  Json json = Json::parse(Tokenizer().to_huggingface_json());
  json["model"]["vocab"]["ab"] = 256;
  json["model"]["vocab"]["12"] = 257;
  json["model"]["vocab"]["\u01200"] = 258;
  json["model"]["merges"] = {"a b", "1 2"};
  const auto encode = [&](const Json& pre, const std::string& text) {
    json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", pre}};
    const auto tokenizer = read(json);
    if (!tokenizer) {
      ADD_FAILURE() << tokenizer.error().message;
      return Ids{};
    }
    return *tokenizer->encode(text);
  };
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  EXPECT_EQ(encode(Json::array({bytes}), "ab12"), (Ids{256, 257}));
  EXPECT_EQ(encode({{{"type", "Digits"}, {"individual_digits", true}}, bytes}, "ab12"), (Ids{256, '1', '2'}));
  EXPECT_EQ(encode({{{"type", "Digits"}}, bytes}, "ab12"), (Ids{256, 257}));
  EXPECT_EQ(encode({bytes, {{"type", "Digits"}, {"individual_digits", true}}}, "ab12"), (Ids{256, '1', '2'}));
  EXPECT_EQ(encode({{{"type", "Punctuation"}}, bytes}, "a!b"), (Ids{'a', '!', 'b'}));
  const Json split = {{"type", "Split"}, {"pattern", {{"String", "b"}}}, {"behavior", "MergedWithNext"}, {"invert", false}};
  EXPECT_EQ(encode({split, bytes}, "ab"), (Ids{'a', 'b'}));
  const Json kept = {{"type", "Split"}, {"pattern", {{"Regex", "a+|b"}}}, {"behavior", "Removed"}, {"invert", true}};
  EXPECT_EQ(encode({kept, bytes}, "aab-b"), (Ids{'a', 'a', 'b', 'b'}));
  EXPECT_EQ(encode({{{"type", "ByteLevel"}, {"add_prefix_space", true}}}, "ab"), (Ids{' ', 256}));
  EXPECT_EQ(encode({{{"type", "ByteLevel"}, {"add_prefix_space", true}}}, " ab"), (Ids{' ', 256}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(encode({{{"type", "ByteLevel"}, {"add_prefix_space", false}}}, "0 0"), (Ids{'0', 258}));
}

TEST(HuggingFace, WhatIsWrongOrUnknownIsNamed) {
  const auto expect_error = [](const Json& json, const std::string& part) {
    const auto result = read(json);
    ASSERT_FALSE(result) << part;
    EXPECT_EQ(result.error().message.rfind("x/tokenizer.json: tokenizer: ", 0), 0U) << result.error().message;
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
  };
  EXPECT_FALSE(Tokenizer::from_huggingface_json("{", "x"));
  EXPECT_FALSE(Tokenizer::from_huggingface_json(std::string(100'000, '['), "x"));
  const auto with = [](const char* pointer, const Json& value) {
    Json json = small();
    json[Json::json_pointer(pointer)] = value;
    return json;
  };
  expect_error(Json::array(), "expected a JSON object");
  expect_error(Json::object(), "model.type");
  expect_error(with("/model/type", "Unigram"), "`model.type`: expected BPE, found \"Unigram\"");
  expect_error(with("/model/end_of_word_suffix", "</w>"), "model.end_of_word_suffix");
  expect_error(with("/model/vocab", Json::object()), "model.vocab");
  expect_error(with("/model/vocab/a", -1), "token \"a\": expected an id");
  expect_error(with("/model/vocab/a", 4), "the id 4 belongs to two tokens");
  expect_error(with("/model/vocab/a", 4'000'000'000U), "expected an id below");
  expect_error(with("/model/unk_token", "<none>"), "model.unk_token");
  expect_error(with("/model/merges", 3), "model.merges");
  expect_error(with("/model/merges", {"ab"}), "merge 0: expected two parts");
  expect_error(with("/model/merges", {"a a"}), "merge 0 (\"a\" \"a\")");
  expect_error(with("/added_tokens", {1}), "added_tokens");
  expect_error(with("/added_tokens/0/id", "one"), "added_tokens");
  expect_error(with("/normalizer", {{"type", "Lowercase"}}), "`normalizer`: the type \"Lowercase\" is not supported");
  expect_error(with("/pre_tokenizer", {{"type", "BertPreTokenizer"}}), "\"BertPreTokenizer\" is not supported");
  expect_error(with("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "("}}}}), "is wrong at byte");
  expect_error(with("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "[a&&b]"}}}}), "a set inside a set");
  expect_error(with("/decoder", {{"type", "CTC"}}), "\"CTC\" is not supported");
  expect_error(with("/post_processor/single/0/SpecialToken/id", "<x>"), "\"<x>\" is no special token");
  Json deep = nullptr;
  for (int i = 0; i < 50; ++i) deep = {{"type", "Sequence"}, {"normalizers", {deep}}};
  expect_error(with("/normalizer", deep), "normalizer");
}

}  // namespace
}  // namespace quern
