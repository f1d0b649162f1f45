// Published vocabularies in small: GGUF files made here, with the tokens that the rules give by hand.
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "model/byte_alphabet.hpp"
#include "model/gguf_file.hpp"
#include "model/tokenizer.hpp"
#include "support/gguf_builder.hpp"

namespace quern {
namespace {

using Ids = std::vector<std::int32_t>;
constexpr std::int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6;

struct Entry {
  std::string text;
  std::int32_t kind = kNormal;
  float score = 0.0F;
};

Result<Tokenizer> read(const GgufBuilder& builder) {
  const std::vector<std::byte> image = builder.build();
  const auto file = GgufFile::parse(image, "small.gguf");
  if (!file) return tl::make_unexpected(file.error());
  return Tokenizer::from_gguf(*file);
}

GgufBuilder vocabulary(const std::string& model, const std::vector<Entry>& entries) {
  std::vector<std::string> texts;
  std::vector<std::int32_t> kinds;
  std::vector<float> scores;
  for (const Entry& entry : entries) {
    texts.push_back(entry.text);
    kinds.push_back(entry.kind);
    scores.push_back(entry.score);
  }
  GgufBuilder builder;
  builder.text("tokenizer.ggml.model", model).texts("tokenizer.ggml.tokens", texts).i32s("tokenizer.ggml.token_type", kinds);
  if (model == "llama") builder.f32s("tokenizer.ggml.scores", scores);
  return builder;
}

// 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, then words.
std::vector<Entry> sentencepiece_entries() {
  std::vector<Entry> entries = {{"<unk>", kUnknown}, {"<s>", kControl}, {"</s>", kControl}};
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
    entries.push_back({text, kByte});
  }
  const std::vector<Entry> words = {
      {"\u2581", kNormal, -20},            // 259
      {"h", kNormal, -21},                 // 260
      {"e", kNormal, -22},                 // 261
      {"l", kNormal, -23},                 // 262
      {"o", kNormal, -24},                 // 263
      {"he", kNormal, -1},                 // 264
      {"ll", kNormal, -2},                 // 265
      {"lo", kNormal, -2},                 // 266: as good as ll, so the leftmost counts
      {"hell", kNormal, -5},               // 267
      {"\u2581he", kNormal, -6},           // 268
      {"\u2581hello", kNormal, -4},        // 269
      {"eh", kUnused, 0},                  // 270: made, then taken apart
      {"\u2581\u2581", kUserDefined, -7},  // 271
      {"<x>", kUserDefined, 0},            // 272
  };
  entries.insert(entries.end(), words.begin(), words.end());
  return entries;
}

TEST(SentencePieceVocabulary, MergesByScoreThenFromTheLeft) {
  auto builder = vocabulary("llama", sentencepiece_entries());
  builder.boolean("tokenizer.ggml.add_space_prefix", false);
  const auto tokenizer = read(builder);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const auto encode = [&](const std::string& text) { return *tokenizer->encode(text); };
  EXPECT_EQ(tokenizer->kind(), TokenizerKind::sentencepiece);
  EXPECT_EQ(encode("he"), (Ids{264}));
  EXPECT_EQ(encode("llo"), (Ids{265, 263})) << "ll and lo score the same: the left one";
  EXPECT_EQ(encode("hello"), (Ids{267, 263})) << "he, ll, then hell";
  EXPECT_EQ(encode(" he"), (Ids{268}));
  EXPECT_EQ(encode(" hello"), (Ids{259, 267, 263}))
      << "hell, at -5, is made before \\u2581he, and nothing makes the longer word";
  EXPECT_EQ(encode("eh"), (Ids{261, 260})) << "an unused token is taken apart";
  EXPECT_EQ(encode("a\u00E9"), (Ids{3 + 'a', 3 + 0xC3, 3 + 0xA9})) << "what has no token becomes bytes";
  EXPECT_EQ(encode("h\xFFh"), (Ids{260, 3 + 0xFF, 260}));
  EXPECT_EQ(encode("h  <x>h"), (Ids{260, 271, 272, 260})) << "user-defined tokens always, spaces and all";
  EXPECT_EQ(encode("<s>"), (Ids{3 + '<', 3 + 's', 3 + '>'})) << "control tokens not";
  EXPECT_EQ(*tokenizer->encode("<s>he</s>", {.parse_special = true}), (Ids{1, 264, 2}));
  EXPECT_EQ(*tokenizer->encode("he", {.add_special = true}), (Ids{1, 264}));
  EXPECT_TRUE(encode("").empty());
  EXPECT_EQ(tokenizer->token_text(269), "\u2581hello");
  EXPECT_EQ(tokenizer->token_bytes(269), " hello");
  EXPECT_EQ(tokenizer->token_text(3 + 10), "<0x0A>");
  EXPECT_EQ(tokenizer->token_bytes(3 + 10), "\n");
  EXPECT_EQ(tokenizer->token_kind(3 + 10), TokenKind::byte);
  EXPECT_EQ(tokenizer->token_kind(-1), TokenKind::unused);
  EXPECT_EQ(tokenizer->find_token("</s>"), 2);
  EXPECT_FALSE(tokenizer->find_token("nothing"));
  EXPECT_TRUE(tokenizer->is_special(0));
  EXPECT_FALSE(tokenizer->is_special(272));
  EXPECT_EQ(tokenizer->end_of_text(), 2);
  EXPECT_EQ(tokenizer->special_tokens().unknown, 0);
}

TEST(SentencePieceVocabulary, TheSpaceInFrontComesAndGoes) {
  // A user-defined token of two spaces would make the space in front ambiguous; vocabularies have one or the other.
  auto entries = sentencepiece_entries();
  entries[271].kind = kNormal;
  const auto tokenizer = read(vocabulary("llama", entries));
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_TRUE(tokenizer->special_tokens().add_space_prefix);
  EXPECT_TRUE(tokenizer->special_tokens().add_bos);
  EXPECT_EQ(*tokenizer->encode("he"), (Ids{268}));
  const Ids framed = {1, 268, 2, 268};
  EXPECT_EQ(*tokenizer->encode("<s>he</s>he", {.parse_special = true}), framed) << "also after a special token";
  EXPECT_EQ(tokenizer->decode(framed), "<s>he</s>he");
  EXPECT_EQ(tokenizer->decode(framed, {.special = false}), "hehe");
  EXPECT_EQ(tokenizer->decode(Ids{268}, {.text_start = false}), " he") << "tokens that continue a text";
  EXPECT_EQ(tokenizer->decode(Ids{268, 268}), "he he");
  StreamingDecoder stream(*tokenizer, {.special = false});
  std::string text;
  for (const std::int32_t id : {1, 268, 3 + 0xC3, 3 + 0xA9, 268}) text += stream.push(id) + "|";
  EXPECT_EQ(text + stream.finish(), "|he||\u00E9| he|");
  std::mt19937 random(4);
  const std::vector<std::string> parts = {"h",    "e",    "ll",     "o",   " ",   "  ",        "\n",
                                          "\xFF", "\xC3", "\u00E9", "<x>", "<s>", "\U0001F600"};
  for (int round = 0; round < 1000; ++round) {
    std::string any;
    for (std::size_t i = random() % 12; i > 0; --i) any += parts[random() % parts.size()];
    const auto ids = tokenizer->encode(any);
    ASSERT_TRUE(ids);
    ASSERT_EQ(tokenizer->decode(*ids), any);
  }
}

TEST(SentencePieceVocabulary, Phi3TakesWhiteSpaceAfterSpecialTokens) {
  auto entries = sentencepiece_entries();
  entries.push_back({"<|user|>", kControl});  // 273
  auto builder = vocabulary("llama", entries);
  builder.text("general.name", "My Phi-3 Mini");
  const auto tokenizer = read(builder);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(*tokenizer->encode("<|user|> \n he", {.parse_special = true}), (Ids{273, 268}));
  EXPECT_EQ(*tokenizer->encode("<s> he", {.parse_special = true}), (Ids{1, 259, 268})) << "but not after <s>";
}

TEST(SentencePieceVocabulary, WithoutBytesTheUnknownToken) {
  const std::vector<Entry> entries = {{"<unk>", kUnknown}, {"<s>", kControl}, {"</s>", kControl}, {"a", kNormal, -1}};
  auto builder = vocabulary("llama", entries);
  builder.boolean("tokenizer.ggml.add_space_prefix", false);
  const auto tokenizer = read(builder);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(*tokenizer->encode("aba"), (Ids{3, 0, 3}));
  auto none = vocabulary("llama", entries);
  none.boolean("tokenizer.ggml.add_space_prefix", false).u32("tokenizer.ggml.unknown_token_id", 0xFFFFFFFF);
  const auto strict = read(none);
  ASSERT_TRUE(strict) << strict.error().message;
  EXPECT_EQ(strict->encode("ab").error().message, "the character U+0062 has no token in the vocabulary");
}

// Ids of bytes are scattered, some merges make no token.
GgufBuilder byte_level(const std::string& pre) {
  std::vector<Entry> entries;
  for (int byte = 255; byte >= 0; --byte) entries.push_back({spell_bytes(std::string(1, static_cast<char>(byte)))});
  for (const char* word : {"ab", "abc", " ab"}) entries.push_back({spell_bytes(word)});  // 256, 257, 258
  entries.push_back({"<|im_end|>", kControl});                                           // 259
  entries.push_back({"<think>", kUserDefined});                                          // 260
  entries.push_back({"xyz"});                                                            // 261: no merge makes it
  auto builder = vocabulary("gpt2", entries);
  builder.texts("tokenizer.ggml.merges", {"a b", "\u0120 ab", "b c", "bc d", "ab c"});
  if (!pre.empty()) builder.text("tokenizer.ggml.pre", pre);
  builder.u32("tokenizer.ggml.eos_token_id", 259);
  return builder;
}

TEST(ByteLevelVocabulary, MergesByRankAndWritesTheRestByteByByte) {
  const auto tokenizer = read(byte_level("qwen2"));
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const auto id = [](char c) { return 255 - static_cast<unsigned char>(c); };
  const auto encode = [&](const std::string& text) { return *tokenizer->encode(text); };
  EXPECT_EQ(tokenizer->kind(), TokenizerKind::byte_level_bpe);
  EXPECT_EQ(encode("abc"), (Ids{257}));
  EXPECT_EQ(encode("abcab"), (Ids{257, 256}));
  EXPECT_EQ(encode("bcd"), (Ids{id('b'), id('c'), id('d')})) << "the merges make bcd, which is no token";
  EXPECT_EQ(encode("ab ab"), (Ids{256, 258}));
  EXPECT_EQ(encode("xyz"), (Ids{id('x'), id('y'), id('z')}));
  EXPECT_EQ(encode("<think>ab<|im_end|>")[0], 260);
  EXPECT_GT(encode("<|im_end|>").size(), 1U);
  EXPECT_EQ(*tokenizer->encode("ab<|im_end|>", {.parse_special = true}), (Ids{256, 259}));
  EXPECT_EQ(tokenizer->token_text(258), "\u0120ab");
  EXPECT_EQ(tokenizer->decode(Ids{256, 259, 260}, {.special = false}), "ab<think>");
  EXPECT_TRUE(tokenizer->ends_generation(259));
  EXPECT_FALSE(tokenizer->special_tokens().add_bos);
  const auto llama = read(byte_level("llama-bpe"));
  ASSERT_TRUE(llama) << llama.error().message;
  EXPECT_EQ(*llama->encode("xyz"), (Ids{261})) << "a whole word that is a token needs no merges";
  EXPECT_TRUE(llama->special_tokens().add_bos);
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    std::string any(random() % 60, ' ');
    for (char& c : any) c = random() % 2 == 0 ? "abc x<"[random() % 6] : static_cast<char>(random());
    ASSERT_EQ(tokenizer->decode(encode(any)), any);
  }
}

TEST(ByteLevelVocabulary, AMissingNameIsTheDefaultAndUnknownOnesAreErrors) {
  const auto missing = read(byte_level(""));
  ASSERT_TRUE(missing) << missing.error().message;
  const auto wrong = read(byte_level("my-own"));
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message, "small.gguf: key `tokenizer.ggml.pre`: the pre-tokenizer \"my-own\" is not known");
}

TEST(Vocabulary, EndsOfGeneration) {
  const auto ends = [](const std::vector<std::string>& names) {
    std::vector<Entry> entries;
    for (int byte = 0; byte < 256; ++byte) entries.push_back({spell_bytes(std::string(1, static_cast<char>(byte)))});
    for (const std::string& name : names) entries.push_back({name, kControl});
    auto builder = vocabulary("gpt2", entries);
    builder.text("tokenizer.ggml.pre", "gpt-4o").u32("tokenizer.ggml.eos_token_id", 256);
    const auto tokenizer = read(builder);
    EXPECT_TRUE(tokenizer) << tokenizer.error().message;
    const auto found = tokenizer->end_of_generation();
    return Ids(found.begin(), found.end());
  };
  EXPECT_EQ(ends({"<|x|>", "<|im_end|>", "<|y|>", "<|endoftext|>"}), (Ids{256, 257, 259}));
  EXPECT_EQ(ends({"<|x|>", "<|end|>", "<|return|>"}), (Ids{256, 257, 258}));
  EXPECT_EQ(ends({"<|return|>", "<|end|>", "<|call|>"}), (Ids{256, 258})) << "GPT-OSS ends messages with <|end|>";
  const Tokenizer own = Tokenizer::bytes(true);
  EXPECT_TRUE(own.ends_generation(256));
  EXPECT_EQ(*own.encode("a<|endoftext|>b", {.parse_special = true}), (Ids{'a', 256, 'b'}));
  EXPECT_TRUE(Tokenizer().end_of_generation().empty());
}

TEST(Vocabulary, ChannelMarksAreShown) {
  std::vector<Entry> entries;
  for (int byte = 0; byte < 256; ++byte) entries.push_back({spell_bytes(std::string(1, static_cast<char>(byte)))});
  entries.push_back({"<|channel|>", kControl});
  entries.push_back({"<|end|>", kControl});
  auto builder = vocabulary("gpt2", entries);
  const auto tokenizer = read(builder.text("tokenizer.ggml.pre", "gpt-4o"));
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->decode(Ids{256, 'a', 257}, {.special = false}), "<|channel|>a");
  EXPECT_GT(tokenizer->encode("<|channel|>")->size(), 1U) << "and still never made from a stranger's text";
}

TEST(Vocabulary, WhatIsWrongIsNamed) {
  const auto expect_error = [](const GgufBuilder& builder, const std::string& part) {
    const auto result = read(builder);
    ASSERT_FALSE(result) << part;
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
    EXPECT_EQ(result.error().message.rfind("small.gguf: ", 0), 0U) << result.error().message;
  };
  expect_error(GgufBuilder(), "tokenizer.ggml.model");
  expect_error(vocabulary("t5", {{"a"}}), "expected llama, gpt2 or gemma4, found \"t5\"");
  expect_error(vocabulary("gpt2", {}), "tokenizer.ggml.tokens");
  GgufBuilder no_scores;
  no_scores.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", {"a", "b"});
  expect_error(no_scores, "`tokenizer.ggml.scores`: expected one for each of the 2 tokens, found 0");
  GgufBuilder kinds;
  kinds.text("tokenizer.ggml.model", "gpt2")
      .texts("tokenizer.ggml.tokens", {"a", "b"})
      .i32s("tokenizer.ggml.token_type", {1});
  expect_error(kinds, "tokenizer.ggml.token_type");
  expect_error(vocabulary("gpt2", {{"a", 7}}), "expected 1 to 6, found 7 for token 0");
  auto role = vocabulary("gpt2", {{"a"}, {"b"}});
  expect_error(role.u32("tokenizer.ggml.bos_token_id", 2),
               "`tokenizer.ggml.bos_token_id`: expected an id below the 2 tokens, found 2");
  auto merges = vocabulary("gpt2", {{"a"}, {"b"}});
  expect_error(merges.texts("tokenizer.ggml.merges", {"a b", "ab"}), "expected two parts, found \"ab\" at 1");
  auto spelled = vocabulary("gpt2", {{"a"}, {"b"}});
  expect_error(spelled.texts("tokenizer.ggml.merges", {"a \u4E00"}), "not written in the alphabet of bytes");
}

TEST(Vocabulary, OddTokensSurvive) {
  auto entries = sentencepiece_entries();
  entries.push_back({"", kNormal, 0});
  entries.push_back({std::string(5000, 'h'), kNormal, 5});
  entries.push_back({"<0xZZ>", kByte, 0});
  entries.push_back({"\xFF\xC3", kNormal, 0});
  entries.push_back({"he", kNormal, -9});  // a second time
  entries.push_back({"", kControl, 0});
  const auto tokenizer = read(vocabulary("llama", entries));
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const std::string text = std::string(5000, 'h') + "he <0xZZ>\xFF\xC3";
  const auto ids = tokenizer->encode(text, {.parse_special = true});
  ASSERT_TRUE(ids);
  EXPECT_EQ(tokenizer->decode(*ids), text);
}

// One word of a million letters, a million spaces, what almost is special: no quadratic time, nothing lost.
TEST(Vocabulary, HostileTextsTakeLinearTime) {
  constexpr std::size_t kLong = 300'000;
  std::string nearly;
  while (nearly.size() < kLong) nearly += "<|im_end|<|<thin";
  for (const auto& tokenizer : {read(vocabulary("llama", sentencepiece_entries())), read(byte_level("gpt-4o"))}) {
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    for (const std::string& text : {std::string(kLong, 'h'), std::string(kLong, ' '), std::string(kLong, '\n'), nearly,
                                    std::string(kLong, '\x80'), std::string(kLong, 'A') + "b"}) {
      const auto ids = tokenizer->encode(text, {.parse_special = true});
      ASSERT_TRUE(ids);
      EXPECT_EQ(tokenizer->decode(*ids), text);
    }
  }
}

// What a corpus or a checkpoint keeps of a published vocabulary.
TEST(Vocabulary, OwnJsonRoundTrips) {
  auto odd = sentencepiece_entries();
  odd.push_back({"\xFF\xC3", kNormal, 0});
  auto gemma = vocabulary("gemma4", sentencepiece_entries());
  gemma.texts("tokenizer.ggml.merges", {"h e", "l l", "he ll", "\u2581 he"});
  const std::string text = "hello <|im_end|> ab<think>abc  \xFF<s>\n\u00E9 he";
  for (const auto& tokenizer : {read(vocabulary("llama", odd)), read(byte_level("llama-bpe")), read(gemma)}) {
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    const auto back = Tokenizer::from_json(tokenizer->to_json(), "x.h5");
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_TRUE(*back == *tokenizer);
    EXPECT_EQ(back->to_json(), tokenizer->to_json());
    EXPECT_EQ(back->special_tokens().eos, tokenizer->special_tokens().eos);
    for (const bool special : {false, true}) {
      const auto ids = tokenizer->encode(text, {.parse_special = special, .add_special = special});
      ASSERT_TRUE(ids) << ids.error().message;
      EXPECT_EQ(*back->encode(text, {.parse_special = special, .add_special = special}), *ids);
      EXPECT_EQ(back->decode(*ids, {.special = special}), tokenizer->decode(*ids, {.special = special}));
    }
    auto json = nlohmann::json::parse(tokenizer->to_json());
    for (const auto& [key, value] : json.items()) {
      if (key == "vocab_size") continue;
      auto without = json;
      without.erase(key);
      // Files written before there was a name lack it; the expressions themselves say how to cut.
      EXPECT_EQ(Tokenizer::from_json(without.dump(), "x.h5").has_value(), key == "pretokenizer_name") << key;
      without[key] = -1;
      EXPECT_FALSE(Tokenizer::from_json(without.dump(), "x.h5")) << key;
    }
  }
  EXPECT_FALSE(*read(byte_level("qwen2")) == *read(byte_level("gpt-2")));
  EXPECT_TRUE(*read(byte_level("phi-2")) == *read(byte_level("gpt-2"))) << "two names of the same expressions";
}

}  // namespace
}  // namespace quern
