// The suffix automaton against a search through the text.
#include "infer/suffix_automaton.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace quern {
namespace {

using Tokens = std::vector<std::int32_t>;

/// Whether the string of `length` tokens that ends before `end` is the text's end.
bool is_end(const Tokens& text, std::size_t end, std::size_t length) {
  return end >= length && std::equal(text.end() - static_cast<std::ptrdiff_t>(length), text.end(),
                                     text.begin() + static_cast<std::ptrdiff_t>(end - length));
}

/// By search: the longest end that occurs earlier, and what followed it.
struct Searched {
  std::int64_t length = 0;
  std::map<std::int32_t, std::int64_t> times;
  std::int32_t last = -1;
  std::int64_t followers = 0;
};
Searched search(const Tokens& text) {
  Searched result;
  for (std::size_t length = text.size(); length-- > 1;) {
    for (std::size_t end = length; end < text.size(); ++end) {
      if (!is_end(text, end, length)) continue;
      result.length = static_cast<std::int64_t>(length);
      result.last = text[end];
      ++result.times[text[end]];
      ++result.followers;
    }
    if (result.length > 0) return result;
  }
  return result;
}

Tokens random_text(std::mt19937& random, std::size_t length, std::uint32_t alphabet) {
  Tokens text;
  while (text.size() < length) {
    if (text.size() > 6 && random() % 6 == 0) {  // a quotation
      const std::size_t from = random() % (text.size() - 4);
      const std::size_t count = 1 + random() % 12;
      for (std::size_t i = 0; i < count && text.size() < length; ++i) text.push_back(text[from + i]);
    } else {
      text.push_back(static_cast<std::int32_t>(random() % alphabet));
    }
  }
  return text;
}

TEST(SuffixAutomaton, FindsWhatASearchFinds) {
  std::mt19937 random(7);
  for (const std::uint32_t alphabet : {1U, 2U, 3U, 8U, 1000U}) {
    for (int round = 0; round < 8; ++round) {
      const Tokens text = random_text(random, 70, alphabet);
      SuffixAutomaton automaton(1000);  // counts every end
      Tokens so_far;
      for (const std::int32_t token : text) {
        so_far.push_back(token);
        automaton.append(token);
        const Searched expected = search(so_far);
        const SuffixAutomaton::Match match = automaton.longest_match();
        ASSERT_EQ(match.length, expected.length);
        if (match.length == 0) continue;
        const auto last = automaton.last_continuation(match);
        const auto frequent = automaton.frequent_continuation(match);
        ASSERT_TRUE(last && frequent);
        EXPECT_EQ(last->token, expected.last);
        EXPECT_EQ(last->times, expected.times.at(last->token));
        EXPECT_EQ(last->followers, expected.followers);
        EXPECT_EQ(frequent->times, expected.times.at(frequent->token));
        for (const auto& [other, times] : expected.times) EXPECT_LE(times, frequent->times) << other;
      }
    }
  }
}

TEST(SuffixAutomaton, FollowsStringsOfTheText) {
  std::mt19937 random(8);
  for (const std::uint32_t alphabet : {1U, 2U, 5U, 40U}) {
    const Tokens text = random_text(random, 400, alphabet);
    SuffixAutomaton automaton;
    automaton.append(text);
    EXPECT_EQ(automaton.size(), 400);
    // Whatever is followed from a match occurs in the text, and strings get shorter by `shorter`.
    for (auto match = automaton.longest_match(); match.length > 0; match = automaton.shorter(match)) {
      EXPECT_LT(automaton.shorter(match).length, match.length);
      Tokens string(text.end() - match.length, text.end());
      auto at = match;
      for (int i = 0; i < 20; ++i) {
        const auto next = automaton.last_continuation(at);
        if (!next) break;
        string.push_back(next->token);
        at = next->next;
        EXPECT_EQ(at.length, std::ssize(string));
        EXPECT_GE(next->followers, next->times);
        ASSERT_NE(std::search(text.begin(), text.end(), string.begin(), string.end()), text.end());
      }
    }
  }
}

TEST(SuffixAutomaton, StaysLinearOnWhatRepeats) {
  std::mt19937 random(9);
  for (const std::uint32_t alphabet : {1U, 2U, 50000U}) {
    SuffixAutomaton automaton;
    constexpr std::int64_t kTokens = 50000;
    for (std::int64_t i = 0; i < kTokens; ++i) {
      // One token; a Thue-Morse word, which has many kinds of ends; random tokens.
      automaton.append(alphabet == 2 ? __builtin_popcountll(static_cast<unsigned long long>(i)) % 2
                                     : static_cast<std::int32_t>(random() % alphabet));
    }
    EXPECT_LE(automaton.bytes(), static_cast<std::size_t>(260 * kTokens));
    if (alphabet == 1) {
      EXPECT_EQ(automaton.longest_match().length, kTokens - 1);
    }
  }
}

TEST(SuffixAutomaton, HasNothingToSayOfShortTexts) {
  SuffixAutomaton automaton;
  EXPECT_EQ(automaton.longest_match().length, 0);
  EXPECT_FALSE(automaton.last_continuation(automaton.longest_match()));
  automaton.append(5);
  EXPECT_EQ(automaton.longest_match().length, 0);
  automaton.append(5);
  EXPECT_EQ(automaton.longest_match().length, 1);
  EXPECT_EQ(automaton.last_continuation(automaton.longest_match())->token, 5);
  automaton.clear();
  EXPECT_EQ(automaton.size(), 0);
  EXPECT_EQ(automaton.longest_match().length, 0);
}

}  // namespace
}  // namespace quern
