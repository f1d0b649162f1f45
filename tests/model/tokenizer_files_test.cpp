// Tokenizers written into model files and read again: the same ids for every text.
#include "model/tokenizer_files.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <fstream>
#include <random>

#include "model/bpe_trainer.hpp"
#include "model/pretokenizer_names.hpp"
#include "model/regex_dialect.hpp"
#include "model/tokenizer_internal.hpp"
#include "support/shared_data.hpp"
#include "support/tokenizer_files.hpp"

namespace quern {
namespace {

using Ids = std::vector<std::int32_t>;

const std::vector<std::string>& texts() {
  static const std::vector<std::string> list = {
      "",
      " ",
      "   \n\n\t  x",
      "Hello, world! It's 1234567 o'clock.",
      "the the the  then",
      "caf\xC3\xA9 \xE2\x96\x81mark \xF0\x9F\x99\x82\xF0\x9F\x99\x82 \xE4\xBD\xA0\xE5\xA5\xBD",
      "\xFF\xC3 broken \x80",
      "<|endoftext|> a <|endoftext|>",
      "[PAD300] <0x0A> aaaaaaaaa",
      std::string("zero\0byte", 9)};
  return list;
}

// Errors count as equal: a text without tokens has none either way.
void expect_same_ids(const Tokenizer& a, const Tokenizer& b, const std::string& text) {
  for (const bool special : {false, true}) {
    const EncodeOptions options{.parse_special = special, .add_special = special};
    const auto x = a.encode(text, options), y = b.encode(text, options);
    ASSERT_EQ(x.has_value(), y.has_value()) << "'" << text << "' " << (x ? y.error().message : x.error().message);
    if (!x) continue;
    EXPECT_EQ(*x, *y) << "'" << text << "'";
    EXPECT_EQ(a.decode(*x), b.decode(*y));
    EXPECT_EQ(a.decode(*x, {.special = false}), b.decode(*y, {.special = false}));
  }
}

void expect_same_texts(const Tokenizer& a, const Tokenizer& b) {
  for (const std::string& text : texts()) expect_same_ids(a, b, text);
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (int part = 0; part < 8; ++part) {
      if (random() % 3 != 0) {
        text += a.token_bytes(static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(a.vocab_size())));
      } else {
        text += " the caf\xC3\xA9 12 \xE2\x82\xAC\n"[random() % 17];
      }
    }
    expect_same_ids(a, b, text);
  }
}

Tokenizer trained_bpe(bool end_of_text) {
  std::string text;
  for (int i = 0; i < 50; ++i) text += "the cat sat on the mat, then the caf\xC3\xA9's cat ate 1234 mats. ";
  WordCounter words(*Pretokenizer::create({gpt2_pattern()}), 1);
  words.add(text);
  const auto merges = train_bpe(words.sorted(), {.tokens = 300});
  EXPECT_TRUE(merges) << merges.error().message;
  return *Tokenizer::bpe(*merges, end_of_text);
}

class OwnKinds : public testing::TestWithParam<int> {
 protected:
  static Tokenizer make() {
    const bool end = GetParam() % 2 == 1;
    const std::vector<std::int32_t> ascii = {'\n', ' ', ',', 'a', 'b', 'c', 'e', 'h', 'n', 't'};
    std::vector<std::int32_t> wide = ascii;
    for (const std::int32_t c : {0xE9, 0xEA, 0x2581, 0x4F60, 0x597D, 0x1F642}) wide.push_back(c);
    switch (GetParam() / 2) {
      case 0:
        return Tokenizer::bytes(end);
      case 1:
        return *Tokenizer::characters(ascii, end);
      case 2:
        return *Tokenizer::characters(wide, end);
      default:
        return trained_bpe(end);
    }
  }
};

TEST_P(OwnKinds, GiveTheSameIdsAfterGguf) {
  const Tokenizer tokenizer = make();
  for (const std::int64_t padding : {0, 5}) {
    const auto read = through_gguf(tokenizer, tokenizer.vocab_size() + padding);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->vocab_size(), tokenizer.vocab_size() + padding);
    EXPECT_EQ(read->end_of_text(), tokenizer.end_of_text());
    EXPECT_FALSE(read->special_tokens().add_bos);
    EXPECT_EQ(Ids(read->end_of_generation().begin(), read->end_of_generation().end()),
              Ids(tokenizer.end_of_generation().begin(), tokenizer.end_of_generation().end()));
    for (std::int32_t id = 0; id < read->vocab_size(); ++id) {
      const bool padded = id >= tokenizer.vocab_size();
      EXPECT_EQ(read->token_kind(id), padded ? TokenKind::unused : tokenizer.token_kind(id)) << id;
      if (!padded) {
        EXPECT_EQ(read->token_bytes(id), tokenizer.token_bytes(id));
      }
    }
    expect_same_texts(tokenizer, *read);
  }
}

TEST_P(OwnKinds, GoThroughAFolderToGguf) {
  const Tokenizer tokenizer = make();
  const auto files = huggingface_tokenizer_files(tokenizer, "");
  ASSERT_TRUE(files) << files.error().message;
  const auto json = Tokenizer::from_huggingface_json(files->tokenizer_json, "written");
  ASSERT_TRUE(json) << json.error().message;
  const auto gguf = through_gguf(*json, tokenizer.vocab_size());
  ASSERT_TRUE(gguf) << gguf.error().message;
  expect_same_texts(tokenizer, *gguf);
}

INSTANTIATE_TEST_SUITE_P(All, OwnKinds, testing::Range(0, 8));

TEST(AddTokenizer, RefusesAVocabularySmallerThanTheTokenizer) {
  const auto read = through_gguf(Tokenizer::bytes(true), 256);
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().message.find("256"), std::string::npos) << read.error().message;
}

// ---- llama2.c

void append_token(std::string& file, float score, std::string_view text) {
  const auto number = [&file](std::uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) file += static_cast<char>(value >> shift);
  };
  number(std::bit_cast<std::uint32_t>(score));
  number(static_cast<std::uint32_t>(text.size()));
  file += text;
}

std::string small_llama2c() {
  std::string file("\x04\0\0\0", 4);
  append_token(file, 0, "<unk>");
  append_token(file, 0, "\n<s>\n");
  append_token(file, 0, "\n</s>\n");
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
    append_token(file, 0, text);
  }
  append_token(file, -0.0F, " t");
  append_token(file, -1, "he");
  append_token(file, -2, " the");
  for (const char* character : {" ", "t", "h", "e"}) append_token(file, -3, character);
  return file;
}
constexpr std::int64_t kSmall = 3 + 256 + 7;

TEST(Llama2c, ReadsTextsScoresAndRoles) {
  const auto tokenizer = internal::parse_llama2c_tokenizer(small_llama2c(), kSmall, "test");
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->kind(), TokenizerKind::sentencepiece);
  EXPECT_EQ(*tokenizer->encode("the the\n"), (Ids{261, 261, 3 + '\n'}));
  EXPECT_EQ(*tokenizer->encode("the", {.add_special = true}), (Ids{1, 261}));
  EXPECT_EQ(tokenizer->decode(Ids{261, 261}), "the the");
  EXPECT_EQ(tokenizer->end_of_text(), 2);
  EXPECT_EQ(*tokenizer->encode("</s>", {.parse_special = true}), (Ids{2}));
}

TEST(Llama2c, EveryDamageIsAnError) {
  const std::string good = small_llama2c();
  for (std::size_t bytes = 0; bytes < good.size(); ++bytes) {
    const auto cut = internal::parse_llama2c_tokenizer(std::string_view(good).substr(0, bytes), kSmall, "test");
    ASSERT_FALSE(cut) << bytes;
    EXPECT_NE(cut.error().message.find("test"), std::string::npos);
  }
  EXPECT_FALSE(internal::parse_llama2c_tokenizer(good, kSmall - 1, "test"));
  EXPECT_FALSE(internal::parse_llama2c_tokenizer(good, kSmall + 1, "test"));
  for (const std::int64_t vocab : {std::int64_t{0}, std::int64_t{-1}, INT64_MAX, INT64_MIN}) {
    EXPECT_FALSE(internal::parse_llama2c_tokenizer(good, vocab, "test"));
  }
  std::string bad = good;
  bad[4 + 4 + 3] = '\x7F';  // a length near 2^31
  EXPECT_FALSE(internal::parse_llama2c_tokenizer(bad, kSmall, "test"));
  bad = good;
  bad[4 + 2] = '\xC0', bad[4 + 3] = '\x7F';  // a score that is no number
  EXPECT_FALSE(internal::parse_llama2c_tokenizer(bad, kSmall, "test"));
}

TEST(Llama2c, GivesTheIdsOfTheGgufOfTheSameModel) {
  const auto bin = shared_data("testdata/stories260K/tok512.bin"),
             gguf = shared_data("testdata/stories260K/stories260K-f32.gguf");
  if (!bin || !gguf) GTEST_SKIP() << "shared data absent: testdata/stories260K";
  const auto tokenizer = load_llama2c_tokenizer(*bin, 512);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const auto file = GgufFile::open(*gguf);
  ASSERT_TRUE(file) << file.error().message;
  const auto expected = Tokenizer::from_gguf(*file);
  ASSERT_TRUE(expected) << expected.error().message;
  expect_same_texts(*expected, *tokenizer);
  for (const char* name :
       {"testdata/text/tinyshakespeare.txt", "testdata/text/tinystories_944K.txt", "testdata/text/wiki.test.raw"}) {
    const auto path = shared_data(name);
    if (!path) continue;
    std::ifstream stream(*path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    EXPECT_EQ(*expected->encode(text), *tokenizer->encode(text)) << name;
  }
}

// ---- Published vocabularies

class Published : public testing::TestWithParam<const char*> {
 protected:
  static Result<Tokenizer> load() {
    const auto file = GgufFile::open(*shared_data(std::string("testdata/") + GetParam()));
    return file ? Tokenizer::from_gguf(*file) : tl::make_unexpected(file.error());
  }
};

TEST_P(Published, GiveTheSameIdsAfterEachFormat) {
  if (!shared_data(std::string("testdata/") + GetParam())) GTEST_SKIP() << "shared data absent: testdata/" << GetParam();
  const auto tokenizer = load();
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const auto gguf = through_gguf(*tokenizer, tokenizer->vocab_size() + 3);
  ASSERT_TRUE(gguf) << gguf.error().message;
  expect_same_texts(*tokenizer, *gguf);
  EXPECT_EQ(gguf->special_tokens().eos, tokenizer->special_tokens().eos);
  EXPECT_EQ(gguf->special_tokens().add_bos, tokenizer->special_tokens().add_bos);
  const auto files = huggingface_tokenizer_files(*tokenizer, "");
  ASSERT_TRUE(files) << files.error().message;
  const auto json = Tokenizer::from_huggingface_json(files->tokenizer_json, "written");
  ASSERT_TRUE(json) << json.error().message;
  expect_same_texts(*tokenizer, *json);
}

INSTANTIATE_TEST_SUITE_P(All, Published,
                         testing::Values("tokenizers/gpt-2.gguf", "tokenizers/llama-spm.gguf", "tokenizers/phi-3.gguf",
                                         "stories260K/stories260K-f32.gguf"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
                           return name;
                         });

Tokenizer small_sentencepiece() { return *internal::parse_llama2c_tokenizer(small_llama2c(), kSmall, "test"); }

TEST(PublishedInSmall, SentencePieceGoesThroughEachFormat) {
  const Tokenizer tokenizer = small_sentencepiece();
  const auto gguf = through_gguf(tokenizer, kSmall + 2);
  ASSERT_TRUE(gguf) << gguf.error().message;
  expect_same_texts(tokenizer, *gguf);
  EXPECT_EQ(gguf->token_text(kSmall), "[PAD266]");
  const auto files = huggingface_tokenizer_files(tokenizer, "{{ messages }}");
  ASSERT_TRUE(files) << files.error().message;
  const auto json = Tokenizer::from_huggingface_json(files->tokenizer_json, "written");
  ASSERT_TRUE(json) << json.error().message;
  expect_same_texts(tokenizer, *json);
  // Merges have no scores: they become ranks, and the ids stay.
  const auto again = through_gguf(*json, kSmall);
  ASSERT_TRUE(again) << again.error().message;
  expect_same_texts(tokenizer, *again);
  EXPECT_NE(files->tokenizer_config_json.find("{{ messages }}"), std::string::npos);
  EXPECT_NE(files->generation_config_json.find("\"eos_token_id\": 2"), std::string::npos);
}

constexpr const char* kByteLevelJson = R"({"added_tokens": [
  {"id": 4, "content": "<|im_end|>", "special": false, "normalized": false},
  {"id": 5, "content": "<mask>", "lstrip": true, "special": true, "normalized": false},
  {"id": 7, "content": "<tag>", "special": false, "normalized": false}],
  "normalizer": NORMALIZER, "pre_tokenizer": PRE, "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u0120": 3, "x": 6}, "merges": ["a b"]}})";

Result<Tokenizer> small_byte_level(const std::string& normalizer, const std::string& pre) {
  std::string json = kByteLevelJson;
  json.replace(json.find("NORMALIZER"), 10, normalizer);
  json.replace(json.find("PRE"), 3, pre);
  return Tokenizer::from_huggingface_json(json, "small");
}
constexpr const char* kGpt2Json = R"({"type": "ByteLevel", "add_prefix_space": false})";

TEST(PublishedInSmall, KeepsWhatGgufHasNoKeysFor) {
  const auto tokenizer = small_byte_level(R"({"type": "NFC"})", kGpt2Json);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const auto gguf = through_gguf(*tokenizer, 8);
  ASSERT_TRUE(gguf) << gguf.error().message;
  const EncodeOptions special{.parse_special = true};
  EXPECT_EQ(*tokenizer->encode("ab  <mask>ab", special), (Ids{2, 5, 2})) << "the white space before it is the token's";
  EXPECT_EQ(*gguf->encode("ab  <mask>ab", special), (Ids{2, 5, 2}));
  expect_same_texts(*tokenizer, *gguf);
}

TEST(PublishedInSmall, NamesOfEndsAreControlWhateverTheFileSays) {
  const auto tokenizer = small_byte_level("null", kGpt2Json);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->token_kind(4), TokenKind::control);
  EXPECT_EQ(tokenizer->token_kind(7), TokenKind::user_defined);
  EXPECT_EQ(*tokenizer->encode("a<tag>"), (Ids{0, 7}));
  EXPECT_EQ(*tokenizer->encode("a<|im_end|>", {.parse_special = true}), (Ids{0, 4}));
  EXPECT_FALSE(tokenizer->encode("a<|im_end|>")) << "typed text has no such token";
}

TEST(PublishedInSmall, RefusesWhatGgufCannotSay) {
  const auto expect_refused = [](const Result<Tokenizer>& tokenizer, const std::string& what) {
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    const auto gguf = through_gguf(*tokenizer, tokenizer->vocab_size());
    ASSERT_FALSE(gguf);
    EXPECT_NE(gguf.error().message.find(what), std::string::npos) << gguf.error().message;
  };
  expect_refused(small_byte_level("null", R"({"type": "ByteLevel", "add_prefix_space": true})"), "space in front");
  expect_refused(small_byte_level(R"({"type": "Replace", "pattern": {"String": "x"}, "content": "y"})", kGpt2Json),
                 "normalizer");
  expect_refused(small_byte_level("null", R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "q+"}, "behavior": "Isolated"},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})"),
                 "q+");
  // It has merges, so that it matters that nothing cuts.
  expect_refused(small_byte_level("null", R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})"),
                 "pre-tokenizer: none");
}

TEST(PublishedInSmall, RefusesWhatTokenizerJsonCannotSay) {
  const std::vector<std::int32_t> wide = {'a', 0xE9};
  const auto assembled = through_gguf(*Tokenizer::characters(wide, true), 3);
  ASSERT_TRUE(assembled) << assembled.error().message;
  const auto files = huggingface_tokenizer_files(*assembled, "");
  ASSERT_FALSE(files) << "its merges are of bytes that are no tokens";
  EXPECT_NE(files.error().message.find("is none"), std::string::npos) << files.error().message;
}

TEST(PublishedInSmall, RecognisesPretokenizersByTheirExpressions) {
  for (const char* name : {"gpt-2", "llama-bpe", "qwen2", "qwen35", "gpt-4o", "tekken", "deepseek-llm", "deepseek-coder",
                           "deepseek-v3", "starcoder", "falcon", "default"}) {
    std::vector<SplitRule> rules = named_pretokenizer(name)->rules;
    const auto found = find_pretokenizer_names(rules);
    EXPECT_NE(std::find(found.begin(), found.end(), name), found.end()) << name;
    // As tokenizer.json has them.
    for (SplitRule& rule : rules) {
      rule.pattern = *to_pcre2(from_pcre2(rule.pattern));
      rule.empty_cuts = rule.line_anchors = true;
    }
    EXPECT_EQ(find_pretokenizer_names(rules), found) << name;
    rules[0].pattern += "|q";
    EXPECT_TRUE(find_pretokenizer_names(rules).empty()) << name;
  }
}

}  // namespace
}  // namespace quern
