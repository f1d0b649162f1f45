#include "model/bpe.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "model/bpe_trainer.hpp"

namespace quern {
namespace {

// The definition: look at all neighbours, merge the leftmost pair of lowest rank, start again.
std::vector<std::int32_t> merge_naively(std::vector<std::int32_t> symbols, const std::vector<TokenPair>& pairs,
                                        const std::vector<std::int32_t>& results) {
  for (;;) {
    std::size_t best = pairs.size();
    std::size_t place = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (std::size_t rank = 0; rank < best; ++rank) {
        if (pairs[rank] == TokenPair{symbols[i], symbols[i + 1]}) {
          best = rank;
          place = i;
        }
      }
    }
    if (best == pairs.size()) return symbols;
    symbols[place] = results[best];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

// Whole recounts before each merge.
std::vector<TokenPair> train_naively(const std::vector<WordCount>& words, std::size_t tokens, std::int64_t minimum) {
  std::vector<std::vector<std::int32_t>> split;
  for (const WordCount& word : words) {
    split.emplace_back();
    for (const char c : word.word) split.back().push_back(static_cast<unsigned char>(c));
  }
  std::vector<TokenPair> merges;
  for (;;) {
    const auto vocabulary = build_bpe_vocabulary(merges);
    if (vocabulary->tokens.size() >= tokens) return merges;
    std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t> counts;
    for (std::size_t w = 0; w < words.size(); ++w) {
      for (std::size_t i = 0; i + 1 < split[w].size(); ++i) counts[{split[w][i], split[w][i + 1]}] += words[w].count;
    }
    TokenPair best;
    std::int64_t most = minimum - 1;
    for (const auto& [pair, count] : counts) {
      if (count > most) {
        most = count;
        best = {pair.first, pair.second};
      }
    }
    if (most < minimum) return merges;
    merges.push_back(best);
    const std::int32_t result = build_bpe_vocabulary(merges)->results.back();
    for (auto& symbols : split) symbols = merge_naively(symbols, {best}, {result});
  }
}

TEST(BpeMerges, EqualsTheDefinitionOnRandomTables) {
  std::mt19937 random(7);
  for (int round = 0; round < 40; ++round) {
    // Results are drawn from all ids, so that later merges may make symbols of earlier ones.
    const std::int32_t vocab = 3 + static_cast<std::int32_t>(random() % 12);
    std::vector<TokenPair> pairs;
    std::vector<std::int32_t> results;
    for (std::int32_t left = 0; left < vocab; ++left) {
      for (std::int32_t right = 0; right < vocab; ++right) {
        if (random() % 3 != 0) continue;
        pairs.push_back({left, right});
        results.push_back(static_cast<std::int32_t>(random() % static_cast<unsigned>(vocab)));
      }
    }
    std::shuffle(pairs.begin(), pairs.end(), random);
    const auto merges = BpeMerges::create(pairs, results, vocab);
    ASSERT_TRUE(merges);
    BpeScratch scratch;
    for (const std::size_t length : {0, 1, 2, 3, 10, 23, 24, 25, 26, 60, 200}) {
      std::vector<std::int32_t> symbols(length);
      for (auto& symbol : symbols) symbol = static_cast<std::int32_t>(random() % static_cast<unsigned>(vocab));
      const auto expected = merge_naively(symbols, pairs, results);
      merges->apply(symbols, scratch);
      ASSERT_EQ(symbols, expected) << "round " << round << " length " << length;
    }
  }
}

TEST(BpeMerges, ALongWordIsNotQuadratic) {
  // a a -> aa, aa aa -> aaaa, ...: 2^20 symbols take about as many merges; a quadratic engine would take minutes.
  std::vector<TokenPair> pairs = {{'a', 'a'}};
  for (std::int32_t id = 256; id < 266; ++id) pairs.push_back({id, id});
  const auto vocabulary = build_bpe_vocabulary(pairs);
  ASSERT_TRUE(vocabulary);
  const auto merges = BpeMerges::create(pairs, vocabulary->results, static_cast<std::int64_t>(vocabulary->tokens.size()));
  std::vector<std::int32_t> symbols((std::size_t{1} << 18) + 1, 'a');
  BpeScratch scratch;
  merges->apply(symbols, scratch);
  ASSERT_EQ(symbols.size(), 129u);
  EXPECT_EQ(symbols.front(), 266);
  EXPECT_EQ(symbols.back(), 'a');
}

TEST(BpeMerges, BadTablesAreErrors) {
  const std::vector<TokenPair> twice = {{1, 2}, {1, 2}};
  EXPECT_FALSE(BpeMerges::create(twice, std::vector<std::int32_t>{3, 4}, 10));
  const std::vector<TokenPair> outside = {{1, 10}};
  EXPECT_FALSE(BpeMerges::create(outside, std::vector<std::int32_t>{3}, 10));
  EXPECT_FALSE(BpeMerges::create(outside, std::vector<std::int32_t>{11}, 11));
  EXPECT_FALSE(BpeMerges::create(outside, std::vector<std::int32_t>{}, 11));
}

TEST(BpeVocabulary, EqualBytesAreOneToken) {
  const std::vector<TokenPair> merges = {{'a', 'b'}, {'b', 'c'}, {256, 'c'}, {'a', 257}};
  const auto vocabulary = build_bpe_vocabulary(merges);
  ASSERT_TRUE(vocabulary);
  EXPECT_EQ(vocabulary->tokens.size(), 259u);
  EXPECT_EQ(vocabulary->results, (std::vector<std::int32_t>{256, 257, 258, 258}));
  EXPECT_EQ(vocabulary->tokens[258], "abc");
}

TEST(BpeVocabulary, HostileMergesAreErrors) {
  EXPECT_FALSE(build_bpe_vocabulary(std::vector<TokenPair>{{-1, 3}}));
  EXPECT_FALSE(build_bpe_vocabulary(std::vector<TokenPair>{{256, 3}}));
  EXPECT_FALSE(build_bpe_vocabulary(std::vector<TokenPair>{{1, 3}, {1, 3}}));
  std::vector<TokenPair> doubling = {{'a', 'a'}};
  for (std::int32_t id = 256; id < 400; ++id) doubling.push_back({id, id});
  const auto vocabulary = build_bpe_vocabulary(doubling);
  ASSERT_FALSE(vocabulary);
  EXPECT_NE(vocabulary.error().message.find("merge 16 makes a token of 131072 bytes"), std::string::npos)
      << vocabulary.error().message;
}

TEST(BpeTrainer, EqualsWholeRecounts) {
  std::mt19937 random(11);
  for (int round = 0; round < 30; ++round) {
    std::vector<WordCount> words;
    for (int w = 0; w < 40; ++w) {
      std::string word;
      const std::size_t length = 1 + random() % 9;
      for (std::size_t i = 0; i < length; ++i) word.push_back(static_cast<char>('a' + random() % (round % 3 + 2)));
      words.push_back({word, static_cast<std::int64_t>(1 + random() % 5)});
    }
    const auto merges = train_bpe(words, {.tokens = 300});
    ASSERT_TRUE(merges);
    ASSERT_EQ(*merges, train_naively(words, 300, 2)) << "round " << round;
    std::shuffle(words.begin(), words.end(), random);
    ASSERT_EQ(*merges, *train_bpe(words, {.tokens = 300})) << "the words' order must not matter";
  }
}

TEST(BpeTrainer, KnowsItsLimits) {
  EXPECT_FALSE(train_bpe({}, {.tokens = 255}));
  EXPECT_TRUE(train_bpe({}, {.tokens = 256})->empty());
  EXPECT_TRUE(train_bpe({{"abc", 1}}, {.tokens = 1000})->empty()) << "nothing occurs twice";
  EXPECT_EQ(train_bpe({{"abc", 2}}, {.tokens = 1000})->size(), 2u);
  std::int64_t last = 0;
  BpeTrainingOptions options{.tokens = 258};
  options.progress = [&last](std::int64_t done, std::int64_t total) {
    EXPECT_EQ(total, 258);
    last = done;
  };
  EXPECT_EQ(train_bpe({{"abcd", 2}}, options)->size(), 2u);
  EXPECT_EQ(last, 258);
}

TEST(WordCounter, CountsDependOnNeitherThreadsNorParts) {
  std::mt19937 random(3);
  std::string text;
  while (text.size() < 1'200'000) {
    text += random() % 20 == 0 ? "\n" : " ";
    const std::size_t length = 1 + random() % 6;
    for (std::size_t i = 0; i < length; ++i) text.push_back(static_cast<char>('a' + random() % 4));
  }
  const auto pretokenizer = Pretokenizer::create({gpt2_pattern()});
  ASSERT_TRUE(pretokenizer);
  std::vector<std::vector<WordCount>> results;
  for (const int threads : {1, 2, 5}) {
    WordCounter counter(*pretokenizer, threads);
    counter.add(text);
    results.push_back(counter.sorted());
  }
  // The reference: one call of the pre-tokenizer over the whole text.
  std::vector<std::size_t> ends;
  pretokenizer->split(text, ends);
  std::map<std::string, std::int64_t> expected;
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    ++expected[text.substr(begin, end - begin)];
    begin = end;
  }
  for (const auto& words : results) {
    ASSERT_EQ(words.size(), expected.size());
    for (const WordCount& word : words) ASSERT_EQ(word.count, expected[word.word]) << word.word;
  }
}

}  // namespace
}  // namespace quern
