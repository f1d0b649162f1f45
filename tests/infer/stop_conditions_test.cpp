// Stop strings over token borders, end tokens, limits, and text that never breaks a character.
#include "infer/stop_conditions.hpp"

#include <gtest/gtest.h>

#include <random>

#include "model/utf8.hpp"

namespace quern {
namespace {

struct Outcome {
  std::string text;
  std::optional<StopReason> stop;
  std::int64_t tokens = 0;
  std::vector<std::string> pieces;
};

/// Feeds the bytes of `text` as tokens of the byte tokenizer until a stop; then, or at the end, takes what is left.
Outcome feed(StopFilter& filter, std::string_view text) {
  Outcome outcome;
  for (const char c : text) {
    const StopFilter::Step step = filter.push(static_cast<unsigned char>(c));
    outcome.text += step.text;
    outcome.pieces.push_back(step.text);
    outcome.stop = step.stop;
    if (step.stop) break;
  }
  if (!outcome.stop) outcome.text += filter.finish();
  outcome.tokens = filter.tokens();
  return outcome;
}

/// The text before the stop string that is complete first (of several that end together the longest), character by
/// character.
std::string reference(std::string_view text, const std::vector<std::string>& strings) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string& string : strings) {
      if (text.substr(0, end).ends_with(string)) longest = std::max(longest, string.size());
    }
    if (longest > 0) return std::string(text.substr(0, end - longest));
  }
  return std::string(text);
}

TEST(StopFilter, HoldsBackWhatMayBecomeAStopString) {
  const Tokenizer bytes = Tokenizer::bytes(false);
  StopFilter filter(&bytes, {.strings = {"\nUser:"}});
  const Outcome outcome = feed(filter, "Hi\nUs, all\nUser: no");
  EXPECT_EQ(outcome.text, "Hi\nUs, all");
  EXPECT_EQ(outcome.stop, StopReason::stop_string);
  EXPECT_EQ(outcome.tokens, 16);
  EXPECT_EQ(outcome.pieces[2], "") << "a line break may begin the stop string";
  EXPECT_EQ(outcome.pieces[5], "\nUs,");
  EXPECT_EQ(outcome.pieces.back(), "");
}

TEST(StopFilter, PrintsHeldTextAtTheEnd) {
  const Tokenizer bytes = Tokenizer::bytes(true);
  StopFilter finished(&bytes, {.strings = {"stop"}});
  EXPECT_EQ(finished.push('s').text, "");
  EXPECT_EQ(finished.push('t').text, "");
  EXPECT_EQ(finished.finish(), "st");

  StopFilter limited(&bytes, {.max_tokens = 2, .strings = {"stop"}});
  EXPECT_EQ(limited.push('s').text, "");
  const StopFilter::Step last = limited.push('t');
  EXPECT_EQ(last.text, "st");
  EXPECT_EQ(last.stop, StopReason::token_limit);

  StopFilter ended(&bytes, {.end_tokens = {256}, .strings = {"stop"}});
  EXPECT_EQ(ended.push('s').text, "");
  const StopFilter::Step end = ended.push(256);
  EXPECT_EQ(end.text, "s");
  EXPECT_EQ(end.stop, StopReason::end_of_text);
  EXPECT_TRUE(end.is_end_token);
  EXPECT_EQ(ended.tokens(), 1);
}

TEST(StopFilter, TheStringThatIsCompleteFirstEnds) {
  const Tokenizer bytes = Tokenizer::bytes(false);
  const auto stopped = [&](std::vector<std::string> strings, std::string_view text) {
    StopFilter filter(&bytes, {.strings = std::move(strings)});
    return feed(filter, text).text;
  };
  EXPECT_EQ(stopped({"bcd", "c"}, "abcd"), "ab");
  EXPECT_EQ(stopped({"c", "abc"}, "xabc"), "x");
  EXPECT_EQ(stopped({"aab"}, "aaab"), "a");
  EXPECT_EQ(stopped({"x"}, "x"), "");
}

TEST(StopFilter, AnyTextEqualsTheReferenceHoweverItIsCut) {
  // Tokens of one to four characters over a tiny alphabet with a two-byte character make borders of every kind.
  std::vector<TokenPair> merges;
  std::mt19937 random(5);
  const std::vector<std::string> letters = {"a", "b", "\xC3\xA9"};
  const Tokenizer bytes = Tokenizer::bytes(false);
  // Ids of bpe: 256 + i is merge i. (a b), (ab ab), (C3 A9), (a C3): the last ends inside a character.
  merges = {{'a', 'b'}, {256, 256}, {0xC3, 0xA9}, {'a', 0xC3}};
  const Tokenizer bpe = Tokenizer::bpe(merges, false).value();
  for (int round = 0; round < 400; ++round) {
    std::string text;
    for (int i = 0; i < 24; ++i) text += letters[random() % 3];
    std::vector<std::string> strings;
    for (std::size_t i = 0; i < 1 + random() % 3; ++i) {
      std::string string;
      for (std::size_t j = 0; j < 1 + random() % 6; ++j) string += letters[random() % 3];
      strings.push_back(string);
    }
    const std::string expected = reference(text, strings);
    StopFilter by_byte(&bytes, {.strings = strings});
    const Outcome plain = feed(by_byte, text);
    EXPECT_EQ(plain.text, expected);
    for (const std::string& piece : plain.pieces) EXPECT_EQ(find_invalid_utf8(piece), std::string::npos);

    StopFilter by_token(&bpe, {.strings = strings});
    std::string printed;
    bool stopped = false;
    const auto tokens = bpe.encode(text).value();
    for (const std::int32_t token : tokens) {
      const StopFilter::Step step = by_token.push(token);
      EXPECT_EQ(find_invalid_utf8(step.text), std::string::npos);
      printed += step.text;
      stopped = step.stop.has_value();
      if (stopped) break;
    }
    if (!stopped) printed += by_token.finish();
    EXPECT_EQ(printed, expected) << text;
    EXPECT_EQ(stopped, expected != text || reference(text + "?", strings) == text);
  }
}

TEST(StopFilter, EndTokensCanBeIgnoredAndSpecialTextShown) {
  const Tokenizer bytes = Tokenizer::bytes(true);
  StopFilter ignoring(&bytes, {.end_tokens = {256}, .ignore_end_tokens = true});
  const StopFilter::Step step = ignoring.push(256);
  EXPECT_FALSE(step.stop);
  EXPECT_EQ(step.text, "") << "special tokens give no text";
  EXPECT_EQ(ignoring.tokens(), 1);
  StopFilter showing(&bytes, {.special_text = true});
  EXPECT_EQ(showing.push(256).text, kEndOfText);

  StopFilter without_text(nullptr, {.max_tokens = 2, .end_tokens = {7}});
  EXPECT_FALSE(without_text.push(3).stop);
  EXPECT_EQ(without_text.push(4).stop, StopReason::token_limit);
  EXPECT_EQ(without_text.finish(), "");
}

TEST(StopConditions, WrongOnesAreRefused) {
  EXPECT_TRUE(validate(StopConditions{}));
  EXPECT_FALSE(validate(StopConditions{.max_tokens = 0}));
  EXPECT_FALSE(validate(StopConditions{.strings = {"a", ""}}));
  const auto invalid = validate(StopConditions{.strings = {"ab\xFFz"}});
  ASSERT_FALSE(invalid);
  EXPECT_NE(invalid.error().message.find("byte 2"), std::string::npos) << invalid.error().message;
}

}  // namespace
}  // namespace quern
