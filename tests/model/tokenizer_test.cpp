#include "model/tokenizer.hpp"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "model/bpe_trainer.hpp"

namespace quern {
namespace {

const std::string kText =
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness was upon "
    "the face of the deep. Gr\xC3\xBC\xC3\x9F Gott, sagte er. \xF0\x9F\x98\x80 \xF0\x9F\x98\x80 the end of the 12 12 12.\n";

Tokenizer trained(std::int64_t tokens = 330) {
  const auto pretokenizer = Pretokenizer::create({gpt2_pattern()});
  WordCounter counter(*pretokenizer, 1);
  counter.add(kText);
  return *Tokenizer::bpe(*train_bpe(counter.sorted(), {.tokens = tokens, .minimum_count = 1}), true);
}

std::string random_bytes(std::mt19937& random, std::size_t most) {
  std::string text(random() % most, ' ');
  for (char& c : text) c = static_cast<char>(random() % 3 == 0 ? random() : "the and  of\n\xC3\xBC"[random() % 13]);
  return text;
}

TEST(Tokenizer, BytesRoundTrip) {
  const Tokenizer tokenizer;
  EXPECT_EQ(tokenizer.vocab_size(), 256);
  EXPECT_FALSE(tokenizer.end_of_text());
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  const auto tokens = tokenizer.encode(all);
  ASSERT_TRUE(tokens);
  for (int i = 0; i < 256; ++i) EXPECT_EQ((*tokens)[i], i);
  EXPECT_EQ(tokenizer.decode(*tokens), all);
  const Tokenizer with_end = Tokenizer::bytes(true);
  EXPECT_EQ(with_end.vocab_size(), 257);
  EXPECT_EQ(with_end.end_of_text(), 256);
  EXPECT_TRUE(with_end.is_special(256));
  EXPECT_FALSE(tokenizer.is_special(-1));
}

TEST(Tokenizer, CharactersRoundTripAndNameWhatTheyLack) {
  const std::vector<std::int32_t> points = {'\n', ' ', 'a', 'b', 0xFC, 0x1F600};
  const auto tokenizer = Tokenizer::characters(points, true);
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->vocab_size(), 7);
  const std::string text = "ab \xC3\xBC\n\xF0\x9F\x98\x80";
  const auto tokens = tokenizer->encode(text);
  ASSERT_TRUE(tokens);
  EXPECT_EQ(*tokens, (std::vector<std::int32_t>{2, 3, 1, 4, 0, 5}));
  EXPECT_EQ(tokenizer->decode(*tokens), text);
  EXPECT_EQ(tokenizer->encode("abc").error().message,
            "the character 'c' (U+0063) at byte 2 is not among the tokenizer's 6 characters");
  EXPECT_EQ(tokenizer->encode("a\xC3\x9F").error().message,
            "the character '\xC3\x9F' (U+00DF) at byte 1 is not among the tokenizer's 6 characters");
  EXPECT_EQ(tokenizer->encode("a\xC3").error().message,
            "byte 1 (0xC3) is not valid UTF-8, which a character tokenizer needs");
  std::vector<std::int32_t> kept = {1, 2};
  EXPECT_FALSE(tokenizer->encode_append("abc", kept));
  EXPECT_EQ(kept.size(), 2u);
  EXPECT_FALSE(Tokenizer::characters(std::vector<std::int32_t>{}, false));
  EXPECT_FALSE(Tokenizer::characters(std::vector<std::int32_t>{'b', 'a'}, false));
  EXPECT_FALSE(Tokenizer::characters(std::vector<std::int32_t>{'a', 'a'}, false));
  EXPECT_FALSE(Tokenizer::characters(std::vector<std::int32_t>{0xD800}, false));
  EXPECT_FALSE(Tokenizer::characters(std::vector<std::int32_t>{0x110000}, false));
}

TEST(Tokenizer, BpeRoundTripsAnyBytes) {
  const Tokenizer tokenizer = trained();
  EXPECT_EQ(tokenizer.vocab_size(), 331);
  EXPECT_EQ(tokenizer.end_of_text(), 330);
  const auto tokens = tokenizer.encode(kText);
  ASSERT_TRUE(tokens);
  EXPECT_LT(tokens->size(), kText.size() / 2);
  EXPECT_EQ(tokenizer.decode(*tokens), kText);
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    const std::string text = random_bytes(random, 200);
    const auto encoded = tokenizer.encode(text);
    ASSERT_TRUE(encoded);
    ASSERT_EQ(tokenizer.decode(*encoded), text);
    for (const std::int32_t token : *encoded) ASSERT_FALSE(tokenizer.is_special(token));
  }
  EXPECT_TRUE(tokenizer.encode("")->empty());
  const auto special_text = tokenizer.encode(kEndOfText);
  EXPECT_GT(special_text->size(), 1u) << "text never makes a special token";
  EXPECT_EQ(tokenizer.decode(*special_text), kEndOfText);
  EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{330, -1, 331, 'a'}), std::string(kEndOfText) + "a");
}

// The word cache must not show: a text's tokens are those of its pieces, one by one.
TEST(Tokenizer, BpeEncodesEachPieceAlone) {
  const Tokenizer tokenizer = trained();
  const auto pretokenizer = Pretokenizer::create({gpt2_pattern()});
  std::string text;
  for (int i = 0; i < 20; ++i) text += kText + std::string(40, 'e') + " the the ";
  std::vector<std::size_t> ends;
  pretokenizer->split(text, ends);
  std::vector<std::int32_t> expected;
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    const auto piece = tokenizer.encode(text.substr(begin, end - begin));
    expected.insert(expected.end(), piece->begin(), piece->end());
    begin = end;
  }
  EXPECT_EQ(*tokenizer.encode(text), expected);
}

TEST(Tokenizer, StreamingNeverSplitsACharacter) {
  const Tokenizer tokenizer;
  const std::string text = "a\xF0\x9F\x98\x80\xC3\xBC\xFFz\xE2\x82";
  StreamingDecoder stream(tokenizer);
  std::vector<std::string> emitted;
  const auto tokens = tokenizer.encode(text);
  ASSERT_TRUE(tokens);
  for (const std::int32_t token : *tokens) {
    const std::string piece = stream.push(token);
    if (!piece.empty()) emitted.push_back(piece);
  }
  EXPECT_EQ(emitted, (std::vector<std::string>{"a", "\xF0\x9F\x98\x80", "\xC3\xBC", "\xFF", "z"}));
  EXPECT_EQ(stream.finish(), "\xE2\x82");
  EXPECT_EQ(stream.finish(), "");

  const Tokenizer bpe = trained();
  std::mt19937 random(2);
  for (int round = 0; round < 100; ++round) {
    const std::string bytes = random_bytes(random, 60);
    StreamingDecoder decoder(bpe);
    std::string joined;
    const auto encoded = bpe.encode(bytes);
    ASSERT_TRUE(encoded);
    for (const std::int32_t token : *encoded) joined += decoder.push(token);
    EXPECT_EQ(joined + decoder.finish(), bytes);
  }
}

TEST(Tokenizer, JsonRoundTrips) {
  for (const Tokenizer& tokenizer : {Tokenizer(), Tokenizer::bytes(true), trained(), trained(256),
                                     *Tokenizer::characters(std::vector<std::int32_t>{0, '"', '\\', 0xFC, 0x10FFFF}, false),
                                     *Tokenizer::characters(std::vector<std::int32_t>{'a'}, true)}) {
    const auto back = Tokenizer::from_json(tokenizer.to_json(), "x.h5");
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_TRUE(*back == tokenizer);
    EXPECT_EQ(back->to_json(), tokenizer.to_json());
    EXPECT_EQ(back->vocab_size(), tokenizer.vocab_size());
  }
  EXPECT_FALSE(Tokenizer() == Tokenizer::bytes(true));
  EXPECT_FALSE(trained(300) == trained(301));
}

TEST(Tokenizer, BadJsonIsAnError) {
  const auto expect_error = [](const std::string& text, const std::string& part) {
    const auto result = Tokenizer::from_json(text, "x.h5");
    ASSERT_FALSE(result) << text;
    EXPECT_EQ(result.error().message.rfind("x.h5: tokenizer: ", 0), 0u) << result.error().message;
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
  };
  expect_error("", "syntax error");
  expect_error("{\"format\": ", "syntax error");
  expect_error(std::string(100'000, '['), "syntax error");
  expect_error("[]", "`format`");
  expect_error("{\"format\": 3}", "`format`");
  const auto edited = [](const std::string& key, const nlohmann::json& value) {
    auto json = nlohmann::json::parse(trained().to_json());
    if (value.is_null()) {
      json.erase(key);
    } else {
      json[key] = value;
    }
    return json.dump();
  };
  EXPECT_TRUE(Tokenizer::from_json(edited("comment", 1), "x.h5"));
  expect_error(edited("version", 2), "`version`: expected 1, found 2");
  expect_error(edited("version", nullptr), "`version`");
  expect_error(edited("kind", "wordpiece"), "`kind`");
  expect_error(edited("kind", "characters"), "`code_points`");
  expect_error(edited("vocab_size", 332), "`vocab_size`: expected 331, found 332");
  expect_error(edited("pretokenizer", "gpt-4"), "`pretokenizer`");
  expect_error(edited("merges", nullptr), "`merges`");
  expect_error(edited("merges", {1, 2, 3}), "`merges`");
  expect_error(edited("merges", {1, "2"}), "`merges`");
  expect_error(edited("merges", {1, 3000000000U}), "`merges`");
  expect_error(edited("merges", {1, 300}), "no earlier merge");
  expect_error(edited("special_tokens", 1), "`special_tokens`");
  expect_error(edited("special_tokens", {1}), "`special_tokens`");
  expect_error(edited("special_tokens", {{{"id", 5}, {"text", "<|endoftext|>"}}}), "expected id 330, found 5");
}

// ---- Hugging Face's form, read back by a small reader that shares nothing with the writer.

// GPT-2's table, from its description: printable bytes are themselves, the others U+0100 and on.
std::map<std::string, char> gpt2_letters() {
  std::map<std::string, char> letters;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool same = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    const int point = same ? byte : next++;
    std::string utf8;
    if (point < 0x80) {
      utf8 = {static_cast<char>(point)};
    } else {
      utf8 = {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 63))};
    }
    letters[utf8] = static_cast<char>(byte);
  }
  return letters;
}

std::string unspell(const std::string& text) {
  static const auto letters = gpt2_letters();
  std::string bytes;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = static_cast<unsigned char>(text[at]) < 0x80 ? 1 : 2;
    bytes.push_back(letters.at(text.substr(at, length)));
    at += length;
  }
  return bytes;
}

TEST(TokenizerHuggingFace, BpeReadsBackTheSame) {
  const Tokenizer tokenizer = trained();
  const auto json = nlohmann::json::parse(tokenizer.to_huggingface_json());
  EXPECT_EQ(json["version"], "1.0");
  EXPECT_EQ(json["model"]["type"], "BPE");
  EXPECT_EQ(json["pre_tokenizer"]["type"], "ByteLevel");
  EXPECT_EQ(json["pre_tokenizer"]["use_regex"], true);
  EXPECT_EQ(json["pre_tokenizer"]["add_prefix_space"], false);
  EXPECT_EQ(json["decoder"]["type"], "ByteLevel");
  ASSERT_EQ(json["added_tokens"].size(), 1u);
  EXPECT_EQ(json["added_tokens"][0]["id"], 330);
  EXPECT_EQ(json["added_tokens"][0]["content"], kEndOfText);
  EXPECT_EQ(json["added_tokens"][0]["special"], true);
  const auto& vocab = json["model"]["vocab"];
  ASSERT_EQ(vocab.size(), 331u);
  std::map<std::string, std::int32_t> ids;
  for (const auto& [text, id] : vocab.items()) {
    if (id == 330) {
      EXPECT_EQ(text, kEndOfText);
      continue;
    }
    EXPECT_EQ(unspell(text), tokenizer.token_bytes(id.get<std::int32_t>()));
    ids[unspell(text)] = id.get<std::int32_t>();
  }
  ASSERT_EQ(ids.size(), 330u);
  // Merges by rank, then a plain encoder over them: the same tokens.
  std::vector<std::pair<std::string, std::string>> merges;
  for (const auto& merge : json["model"]["merges"]) {
    const std::string text = merge.get<std::string>();
    const std::size_t space = text.find(' ');
    ASSERT_NE(space, std::string::npos);
    merges.emplace_back(unspell(text.substr(0, space)), unspell(text.substr(space + 1)));
    EXPECT_TRUE(ids.count(merges.back().first + merges.back().second));
  }
  for (const std::string word : {" the", "beginning", " Gr\xC3\xBC\xC3\x9F", "\xF0\x9F\x98\x80", " xyzzy"}) {
    std::vector<std::string> symbols;
    for (const char c : word) symbols.emplace_back(1, c);
    for (const auto& [left, right] : merges) {  // in a trained table, rank by rank equals lowest rank first
      for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
        if (symbols[i] == left && symbols[i + 1] == right) {
          symbols[i] += symbols[i + 1];
          symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        }
      }
    }
    std::vector<std::int32_t> expected;
    for (const std::string& symbol : symbols) expected.push_back(ids.at(symbol));
    EXPECT_EQ(*tokenizer.encode(word), expected) << word;
  }
}

TEST(TokenizerHuggingFace, BytesAndCharacters) {
  const auto bytes = nlohmann::json::parse(Tokenizer().to_huggingface_json());
  EXPECT_EQ(bytes["model"]["vocab"].size(), 256u);
  EXPECT_TRUE(bytes["model"]["merges"].empty());
  EXPECT_EQ(bytes["pre_tokenizer"]["use_regex"], false);
  EXPECT_EQ(bytes["model"]["vocab"]["\xC4\x8A"], 10) << "the line end is spelled U+010A";
  const auto ascii =
      nlohmann::json::parse(Tokenizer::characters(std::vector<std::int32_t>{'\n', ' ', 'a'}, false)->to_huggingface_json());
  EXPECT_EQ(ascii["model"]["vocab"], nlohmann::json({{"\xC4\x8A", 0}, {"\xC4\xA0", 1}, {"a", 2}}));
  EXPECT_EQ(ascii["decoder"]["type"], "ByteLevel");
  const auto wide =
      nlohmann::json::parse(Tokenizer::characters(std::vector<std::int32_t>{'\n', 0xFC}, true)->to_huggingface_json());
  EXPECT_EQ(wide["model"]["vocab"], nlohmann::json({{"\n", 0}, {"\xC3\xBC", 1}, {"<|endoftext|>", 2}}));
  EXPECT_TRUE(wide["pre_tokenizer"].is_null());
  EXPECT_EQ(wide["decoder"]["type"], "Fuse");
}

}  // namespace
}  // namespace quern
