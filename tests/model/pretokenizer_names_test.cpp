// The pieces of each named pre-tokenizer, read by hand off the expressions that the models' authors published.
#include "model/pretokenizer_names.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/regex_dialect.hpp"

namespace quern {
namespace {

using Pieces = std::vector<std::string>;

Pieces pieces_of(const Pretokenizer& pretokenizer, const std::string& text) {
  std::vector<Piece> bounds;
  pretokenizer.pieces(text, bounds);
  Pieces pieces;
  for (const Piece piece : bounds) pieces.push_back(text.substr(piece.begin, piece.end - piece.begin));
  return pieces;
}

Pieces pieces_of(const char* name, const std::string& text) {
  const auto named = named_pretokenizer(name);
  if (!named) return {"unknown name"};
  const auto pretokenizer = Pretokenizer::from_rules(named->rules);
  if (!pretokenizer) return {pretokenizer.error().message};
  const Pieces pieces = pieces_of(*pretokenizer, text);
  std::string joined;
  for (const std::string& piece : pieces) joined += piece;
  EXPECT_EQ(joined, text) << name;
  return pieces;
}

TEST(NamedPretokenizer, Gpt2) {
  for (const char* name : {"gpt-2", "mpt", "olmo", "phi-2"}) {
    EXPECT_EQ(pieces_of(name, "I'll be 12345 x's'S \t\n y"),
              (Pieces{"I", "'ll", " be", " 12345", " x", "'s", "'", "S", " \t\n", " y"}))
        << name;
  }
}

TEST(NamedPretokenizer, Llama3TakesThreeDigitsAndOneSymbolBeforeAWord) {
  for (const char* name : {"llama-bpe", "llama3", "llama-v3", "dbrx"}) {
    EXPECT_EQ(pieces_of(name, "We'LL (see) 1234567: a.b  c\n\n\n  d!!\n"),
              (Pieces{"We", "'LL", " (", "see", ")", " ", "123", "456", "7", ":", " a", ".b", " ", " c", "\n\n\n", " ", " d",
                      "!!\n"}))
        << name;
  }
  EXPECT_TRUE(named_pretokenizer("llama-bpe")->ignore_merges);
  EXPECT_TRUE(named_pretokenizer("llama-bpe")->add_bos);
  EXPECT_FALSE(named_pretokenizer("dbrx")->ignore_merges);
  EXPECT_EQ(pieces_of("llama3", "x  \n  \ny   "), (Pieces{"x", "  \n  \n", "y", "   "}));
}

TEST(NamedPretokenizer, Qwen2TakesSingleDigits) {
  EXPECT_EQ(pieces_of("qwen2", "a 123 'Re"), (Pieces{"a", " ", "1", "2", "3", " '", "Re"}));
  EXPECT_EQ(pieces_of("qwen2", "it'RE"), (Pieces{"it", "'RE"}));
  // U+0301 is a mark: not a letter to qwen2, part of the word to qwen35.
  EXPECT_EQ(pieces_of("qwen2", "e\u0301a b"), (Pieces{"e", "\u0301a", " b"}));
  EXPECT_EQ(pieces_of("qwen35", "e\u0301a b"), (Pieces{"e\u0301a", " b"}));
}

TEST(NamedPretokenizer, Gpt4oCutsAtCaseChangesOfEveryAlphabet) {
  EXPECT_EQ(pieces_of("gpt-4o", "camelCaseXMLHttp didn't DON'T 12345 a/b://\n"),
            (Pieces{"camel", "Case", "XMLHttp", " didn't", " DON'T", " ", "123", "45", " a", "/b", "://\n"}));
  EXPECT_EQ(pieces_of("gpt-4o", "\u0436\u0416\u0436 \u00E9\u00C9"), (Pieces{"\u0436", "\u0416\u0436", " \u00E9", "\u00C9"}))
      << "letters outside ASCII have case too";
  EXPECT_EQ(pieces_of("gpt-4o", "e\u0301E\u0301"), (Pieces{"e\u0301", "E\u0301"})) << "marks belong to either case";
  EXPECT_EQ(pieces_of("gpt-4o", "\u4E00\u3042A\u4E00b"), (Pieces{"\u4E00\u3042A\u4E00b"}))
      << "letters without case join both";
  EXPECT_EQ(pieces_of("tekken", "aB's 12"), (Pieces{"a", "B", "'s", " ", "1", "2"}));
}

TEST(NamedPretokenizer, DeepSeek) {
  EXPECT_EQ(pieces_of("deepseek-llm", "Hi \u4F60\u597D, 1234\n\n  x  "),
            (Pieces{"Hi", " ", "\u4F60\u597D", ",", " ", "1234", "\n", "\n", " ", " x", "  "}));
  EXPECT_EQ(pieces_of("deepseek-coder", "f(x) = 42; \u00E9t\u00E9"),
            (Pieces{"f", "(", "x", ")", " = ", "4", "2", ";", " \u00E9t\u00E9"}));
  EXPECT_EQ(pieces_of("deepseek-v3", "a_b (x) 1234 \u6F22\u5B57\u304B\u306A !?\n z"),
            (Pieces{"a", "_b", " (", "x", ")", " ", "123", "4", " ", "\u6F22\u5B57\u304B\u306A", " !?\n", " z"}));
}

TEST(NamedPretokenizer, StarcoderFalconAndDefault) {
  for (const char* name : {"starcoder", "refact", "command-r", "smollm"}) {
    EXPECT_EQ(pieces_of(name, "a 123b's"), (Pieces{"a", " ", "1", "2", "3", "b", "'s"})) << name;
  }
  // Punctuation first: the contraction's apostrophe is gone when GPT-2's expression looks for it.
  EXPECT_EQ(pieces_of("falcon", "it's `1234567`"), (Pieces{"it", "'", "s", " ", "`", "123", "456", "7", "`"}));
  EXPECT_EQ(pieces_of("default", "it's 12345 $x"), (Pieces{"it", "'", "s", " ", "123", "45", " ", "$", "x"}));
}

TEST(NamedPretokenizer, UnknownNamesAreNotGuessed) {
  for (const char* name : {"", "gpt2", "GPT-2", "llama", "whisper"}) EXPECT_FALSE(named_pretokenizer(name)) << name;
}

// Runs that make a careless expression try each place of the run anew.
TEST(NamedPretokenizer, LongRunsAreLinear) {
  constexpr std::size_t kLong = 400'000;
  const Pieces runs = {std::string(kLong, ' ') + "7" + std::string(kLong, ' ') + "\U0001F600",
                       std::string(kLong, 'A'),
                       std::string(kLong, 'a') + std::string(kLong, '1'),
                       std::string(kLong, '\n') + "x",
                       std::string(kLong, ' ') + "\n",
                       std::string(kLong, '\xFF')};
  for (const char* name : {"gpt-2", "llama-bpe", "qwen2", "qwen35", "gpt-4o", "tekken", "deepseek-llm", "deepseek-coder",
                           "deepseek-v3", "starcoder", "falcon", "default"}) {
    for (const std::string& run : runs) {
      const Pieces pieces = pieces_of(name, run);
      if (run[0] == 'A') {
        EXPECT_EQ(pieces.size(), 1U) << name;
      }
    }
  }
}

TEST(SplitRules, Behaviors) {
  const auto split = [](SplitBehavior behavior, bool invert, const std::string& text) {
    return pieces_of(*Pretokenizer::from_rules({SplitRule{"-", behavior, invert}}), text);
  };
  const std::string text = "-a--b-";
  EXPECT_EQ(split(SplitBehavior::isolated, false, text), (Pieces{"-", "a", "-", "-", "b", "-"}));
  EXPECT_EQ(split(SplitBehavior::removed, false, text), (Pieces{"a", "b"}));
  EXPECT_EQ(split(SplitBehavior::removed, true, text), (Pieces{"-", "-", "-", "-"}));
  EXPECT_EQ(split(SplitBehavior::merged_with_previous, false, text), (Pieces{"-", "a-", "-", "b-"}));
  EXPECT_EQ(split(SplitBehavior::merged_with_next, false, text), (Pieces{"-a", "-", "-b", "-"}));
  EXPECT_EQ(split(SplitBehavior::contiguous, false, text), (Pieces{"-", "a", "--", "b", "-"}));
  SplitRule empty{"(?=b)"};
  empty.empty_cuts = true;
  EXPECT_EQ(pieces_of(*Pretokenizer::from_rules({empty}), "abcb"), (Pieces{"a", "bc", "b"}));
}

TEST(RegexDialect, TranslatesAndRefuses) {
  EXPECT_EQ(*to_pcre2(R"(\s+(?!\S)|[^\s\p{L}]\u00e9\\s)"),
            R"([\t-\r\x{85}\p{Z}]+(?![^\t-\r\x{85}\p{Z}])|[^\t-\r\x{85}\p{Z}\p{L}]\x{00e9}\\s)");
  EXPECT_EQ(*to_pcre2(R"([]a[:alpha:]\u{1F600}]+)"), R"([]a[:alpha:]\x{1F600}]+)");
  EXPECT_FALSE(to_pcre2(R"([\p{L}&&[^a]])"));
  EXPECT_FALSE(to_pcre2("[a[bc]]"));
  EXPECT_FALSE(to_pcre2(R"(\u{xyz})"));
  // White space is Unicode's: U+180E is none, U+3000 is.
  const auto spaces = Pretokenizer::create({*to_pcre2(R"(\s+)")});
  EXPECT_EQ(pieces_of(*spaces, "a\u180Eb\u3000c"), (Pieces{"a\u180E"
                                                           "b",
                                                           "\u3000", "c"}));
  EXPECT_EQ(pieces_of(*Pretokenizer::create({*to_pcre2(R"(\s+$)")}), " a  \t"), (Pieces{" a", "  \t"}));
  EXPECT_EQ(pieces_of(*Pretokenizer::create({literal_pattern("a.b$\u2581")}), "xa.b$\u2581y"),
            (Pieces{"x", "a.b$\u2581", "y"}));
}

}  // namespace
}  // namespace quern
