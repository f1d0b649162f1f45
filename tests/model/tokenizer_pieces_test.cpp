#include <gtest/gtest.h>

#include <random>

#include "model/pretokenizer.hpp"

namespace quern {
namespace {

std::vector<std::string> pieces(const Pretokenizer& pretokenizer, const std::string& text) {
  std::vector<std::size_t> ends;
  pretokenizer.split(text, ends);
  std::vector<std::string> result;
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    EXPECT_GT(end, begin);
    result.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  EXPECT_EQ(begin, text.size());
  return result;
}

Pretokenizer gpt2() { return *Pretokenizer::create({gpt2_pattern()}); }

// GPT-2's expression read by hand, for ASCII.
std::vector<std::string> ascii_reference(const std::string& text) {
  const auto space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  const auto kind = [&space](char c) {
    if (space(c)) return 0;
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return 1;
    return c >= '0' && c <= '9' ? 2 : 3;
  };
  std::vector<std::string> result;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = at;
    for (const std::string suffix : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
      if (end == at && text.compare(at, suffix.size(), suffix) == 0) end = at + suffix.size();
    }
    if (end == at) {
      const std::size_t first = text[at] == ' ' && at + 1 < text.size() && !space(text[at + 1]) ? at + 1 : at;
      end = first;
      while (end < text.size() && kind(text[end]) == kind(text[first])) ++end;
      // A run of white space leaves its last character to what follows, where it has more than one.
      if (kind(text[first]) == 0 && end < text.size() && end - first > 1) --end;
    }
    result.push_back(text.substr(at, end - at));
    at = end;
  }
  return result;
}

TEST(Gpt2Pieces, KnownExamples) {
  using Pieces = std::vector<std::string>;
  EXPECT_EQ(pieces(gpt2(), ""), Pieces{});
  EXPECT_EQ(pieces(gpt2(), "Hello world's 123rd  test!\n"),
            (Pieces{"Hello", " world", "'s", " 123", "rd", " ", " test", "!", "\n"}));
  EXPECT_EQ(pieces(gpt2(), "a   "), (Pieces{"a", "   "}));
  EXPECT_EQ(pieces(gpt2(), "gr\xC3\xBC\xC3\x9F'LL \xC2\xBD\xE2\x82\xAC"),
            (Pieces{"gr\xC3\xBC\xC3\x9F", "'", "LL", " \xC2\xBD", "\xE2\x82\xAC"}))
      << "one half is a number (No), the Euro sign neither letter nor number";
  EXPECT_EQ(pieces(gpt2(),
                   "a\xC2\xA0\xE3\x80\x80"
                   "b"),
            (Pieces{"a", "\xC2\xA0", "\xE3\x80\x80", "b"}))
      << "Unicode's spaces are white space, but only U+0020 joins what follows";
}

TEST(Gpt2Pieces, EqualTheReferenceOnRandomAscii) {
  const Pretokenizer pretokenizer = gpt2();
  std::mt19937 random(5);
  const std::string alphabet = "abLst re vdm'' \n\t  12.!_";
  for (int round = 0; round < 3000; ++round) {
    std::string text(random() % 40, ' ');
    for (char& c : text) c = alphabet[random() % alphabet.size()];
    ASSERT_EQ(pieces(pretokenizer, text), ascii_reference(text)) << "'" << text << "'";
  }
}

TEST(Gpt2Pieces, AnyBytesSurvive) {
  const Pretokenizer pretokenizer = gpt2();
  EXPECT_EQ(pieces(pretokenizer,
                   "ab\xFF\xFE"
                   "cd\xC3"),
            (std::vector<std::string>{"ab", "\xFF\xFE", "cd", "\xC3"}));
  std::mt19937 random(9);
  for (int round = 0; round < 300; ++round) {
    std::string text(random() % 300, ' ');
    for (char& c : text) c = static_cast<char>(random());
    std::string joined;
    for (const std::string& piece : pieces(pretokenizer, text)) joined += piece;
    ASSERT_EQ(joined, text);
  }
}

TEST(Gpt2Pieces, LongRunsStayWhole) {
  const Pretokenizer pretokenizer = gpt2();
  EXPECT_EQ(pieces(pretokenizer, std::string(300'000, ' ')).size(), 1u);
  EXPECT_EQ(pieces(pretokenizer, std::string(300'000, ' ') + "x").size(), 2u);
  EXPECT_EQ(pieces(pretokenizer, std::string(300'000, 'x')).size(), 1u);
}

TEST(Pretokenizer, ExpressionsApplyInOrder) {
  const auto two = Pretokenizer::create({R"([0-9]{2})", R"(b+)"});
  ASSERT_TRUE(two) << two.error().message;
  EXPECT_EQ(pieces(*two, "abba12345b"), (std::vector<std::string>{"a", "bb", "a", "12", "34", "5", "b"}));
  EXPECT_EQ(pieces(Pretokenizer(), "as it is"), (std::vector<std::string>{"as it is"}));
  const auto empty_matches = Pretokenizer::create({"x*"});
  ASSERT_TRUE(empty_matches);
  EXPECT_EQ(pieces(*empty_matches,
                   "a\xE2\x82\xAC"
                   "xxb"),
            (std::vector<std::string>{"a\xE2\x82\xAC", "xx", "b"}));
}

TEST(Pretokenizer, WrongExpressionsAreErrors) {
  const auto wrong = Pretokenizer::create({"a", "(b"});
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("\"(b\" is wrong at byte 2"), std::string::npos) << wrong.error().message;
}

TEST(CutBetweenPieces, BothSidesGiveThePiecesOfTheWhole) {
  const Pretokenizer pretokenizer = gpt2();
  std::mt19937 random(6);
  const std::vector<std::string> alphabet = {"a", "b's", " ", "  ", "\n", "12", ".", "\xC3\xBC", "\xC2\xA0", "'"};
  for (int round = 0; round < 2000; ++round) {
    std::string text = "ab c";  // a safe place within the first bytes
    while (text.size() < 30) text += alphabet[random() % alphabet.size()];
    const std::size_t limit = 4 + random() % (text.size() - 4);
    const std::size_t cut = cut_between_pieces(text, limit);
    ASSERT_GT(cut, 0u);
    ASSERT_LE(cut, limit);
    auto both = pieces(pretokenizer, text.substr(0, cut));
    for (const std::string& piece : pieces(pretokenizer, text.substr(cut))) both.push_back(piece);
    ASSERT_EQ(both, pieces(pretokenizer, text)) << "'" << text << "' at " << cut;
  }
  EXPECT_EQ(cut_between_pieces("\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC", 5), 3u) << "no white space: a character boundary";
}

}  // namespace
}  // namespace quern
