// generate(): one request to its end, with and without text.
#include "infer/generator.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "support/model_harness.hpp"
#include "support/small_vocabulary.hpp"

namespace quern {
namespace {

class GeneratorTest : public testing::Test {
 protected:
  static ModelConfig config() {
    ModelConfig c = tiny_models()[1].config;
    c.vocab = 257;
    return c;  // a context of 24
  }
  ModelHarness harness_{config(), {supported_kernels().front(), false}, ComputeType::f32, 1, 8};
  ThreadTeam team_{1};
  std::unique_ptr<Decoder> decoder_ =
      Decoder::create(harness_.backend, harness_.weights, team_, {.batch_tokens = 16, .context_tokens = 24}).value();
  std::vector<std::int32_t> prompt_ = {'a', 'n', 'd', ' '};
};

TEST_F(GeneratorTest, GoesOnPastTheContext) {
  Sampler sampler(257, {.temperature = 1.0F, .seed = 3});
  std::vector<std::int32_t> seen;
  const auto generation = generate(*decoder_, prompt_, sampler, {.max_tokens = 70}, [&](std::int32_t token) {
    seen.push_back(token);
    return true;
  });
  ASSERT_TRUE(generation) << generation.error().message;
  EXPECT_EQ(generation->tokens.size(), 70U);
  EXPECT_EQ(seen, generation->tokens);
  EXPECT_EQ(generation->stop, StopReason::token_limit);
  EXPECT_EQ(generation->prompt_tokens, 4);
  EXPECT_GT(generation->prefill_seconds, 0.0);
  EXPECT_GT(generation->decode_seconds, 0.0);
  EXPECT_EQ(decoder_->cache().free_tokens(), kPageTokens) << "the sequence is given back";

  // Token 22 is the first that is drawn after the older half was forgotten: its context is the 12 tokens before.
  std::vector<std::int32_t> text = prompt_;
  text.insert(text.end(), seen.begin(), seen.begin() + 21);
  Sampler later(257, {.temperature = 1.0F, .seed = 3});
  later.seek(21);
  const auto rest = generate(*decoder_, std::span(text).last(12), later, {.max_tokens = 5});
  EXPECT_EQ(rest->tokens, std::vector(seen.begin() + 21, seen.begin() + 26));

  // Of a long prompt the last tokens count.
  const std::vector<std::int32_t> many(40, 'x');
  Sampler a(257, {.seed = 1}), b(257, {.seed = 1});
  EXPECT_EQ(generate(*decoder_, many, a, {.max_tokens = 3})->tokens,
            generate(*decoder_, std::span(many).first(24), b, {.max_tokens = 3})->tokens);
}

TEST_F(GeneratorTest, StopsAtTheEndTokenAndWhenAsked) {
  Sampler sampler(257, {.temperature = 1.0F, .seed = 3});
  const auto all = generate(*decoder_, prompt_, sampler, {.max_tokens = 20});
  const std::int32_t end = all->tokens[7];
  sampler.seek(0);
  const auto ended = generate(*decoder_, prompt_, sampler, {.max_tokens = 20, .end_tokens = {end}});
  EXPECT_EQ(ended->stop, StopReason::end_of_text);
  EXPECT_EQ(ended->end_token, end);
  const auto first = std::find(all->tokens.begin(), all->tokens.end(), end);
  EXPECT_EQ(ended->tokens, std::vector(all->tokens.begin(), first));

  sampler.seek(0);
  int calls = 0;
  const auto stopped = generate(*decoder_, prompt_, sampler, {.max_tokens = 20}, [&](std::int32_t) { return ++calls < 3; });
  EXPECT_EQ(stopped->stop, StopReason::interrupted);
  EXPECT_EQ(stopped->tokens, std::vector(all->tokens.begin(), all->tokens.begin() + 3));
}

// A padded vocabulary: rows beyond the tokenizer's tokens are never drawn, however likely.
TEST_F(GeneratorTest, OnlyTokensOfTheVocabularyAreDrawn) {
  for (const float temperature : {0.0F, 1.0F, 1000.0F}) {
    Sampler sampler(257, {.temperature = temperature, .seed = 3});
    const auto drawn = generate(*decoder_, prompt_, sampler, {.max_tokens = 60, .vocab = 40});
    ASSERT_TRUE(drawn) << drawn.error().message;
    EXPECT_LT(*std::max_element(drawn->tokens.begin(), drawn->tokens.end()), 40);
  }
  EXPECT_FALSE(generate(*decoder_, prompt_, *std::make_unique<Sampler>(257, SamplerConfig{}), {.vocab = 258}));

  // A request takes the tokenizer's: 256 of 257. Its bias can force nothing else either.
  const Tokenizer tokenizer = Tokenizer::bytes(false);
  Request request{.prompt = prompt_, .sampler = {.temperature = 1000.0F}};
  request.stop.max_tokens = 20;
  request.top_log_probabilities = 256;
  const auto generation = generate(*decoder_, &tokenizer, request);
  ASSERT_TRUE(generation) << generation.error().message;
  EXPECT_EQ(generation->log_probabilities.at(0).top.size(), 256U);
  for (const TokenLogProbability& entry : generation->log_probabilities[0].top) EXPECT_LT(entry.token, 256);
  request.sampler.logit_bias = {{256, 1000.0F}};
  EXPECT_FALSE(generate(*decoder_, &tokenizer, request));
}

// Text is spelled by the vocabulary: bos in front, and the first token's space is one where the text goes on.
TEST_F(GeneratorTest, PromptsOfPublishedVocabulariesBeginWithBos) {
  const Tokenizer tokenizer = Tokenizer::from_huggingface_json(small_sentencepiece_json(), "small").value();
  const std::vector<std::int32_t> the_cat = {1, *tokenizer.find_token(" the"), *tokenizer.find_token(" cat")};
  EXPECT_EQ(encode_prompt(tokenizer, "the cat").value(), the_cat);
  EXPECT_EQ(encode_prompt(tokenizer, "").value(), std::vector<std::int32_t>{1});
}

TEST_F(GeneratorTest, ARequestGivesTextAndLogProbabilities) {
  const Tokenizer tokenizer = Tokenizer::bytes(true);
  Request request{.prompt = prompt_};
  request.sampler = {.temperature = 1.0F, .seed = 3};
  request.stop.max_tokens = 12;
  request.top_log_probabilities = 2;
  std::string streamed;
  const auto generation = generate(*decoder_, &tokenizer, request, [&](const EngineEvent& event) {
    streamed += event.text;
    return true;
  });
  ASSERT_TRUE(generation);
  Sampler sampler(257, request.sampler);
  EXPECT_EQ(generation->tokens, generate(*decoder_, prompt_, sampler, {.max_tokens = 12})->tokens);
  EXPECT_EQ(generation->text, tokenizer.decode(generation->tokens));
  EXPECT_EQ(streamed, generation->text);
  ASSERT_EQ(generation->log_probabilities.size(), 12U);
  EXPECT_EQ(generation->log_probabilities[5].chosen.token, generation->tokens[5]);

  request.stop.max_tokens = 100;
  EXPECT_EQ(generate(*decoder_, &tokenizer, request)->stop, StopReason::context_full);
  const auto stopped = generate(*decoder_, &tokenizer, request, [](const EngineEvent&) { return false; });
  EXPECT_EQ(stopped->stop, StopReason::interrupted);
  EXPECT_EQ(stopped->tokens.size(), 1U);
}

TEST_F(GeneratorTest, ErrorsAreSentences) {
  Sampler sampler(257, {});
  EXPECT_FALSE(generate(*decoder_, std::span<const std::int32_t>{}, sampler, {}));
  const std::vector<std::int32_t> outside = {257};
  const auto wrong = generate(*decoder_, outside, sampler, {});
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("vocabulary"), std::string::npos);
  auto all = Decoder::create(harness_.backend, harness_.weights, team_, {.context_tokens = 24, .all_logits = true}).value();
  EXPECT_FALSE(generate(*all, prompt_, sampler, {}));
}

TEST(EncodePrompt, AnEmptyOneBeginsADocument) {
  EXPECT_EQ(encode_prompt(Tokenizer::bytes(true), "").value(), std::vector<std::int32_t>{256});
  EXPECT_EQ(encode_prompt(Tokenizer::bytes(false), "").value(), std::vector<std::int32_t>{'\n'});
  EXPECT_EQ(encode_prompt(Tokenizer::bytes(true), "ab").value(), (std::vector<std::int32_t>{'a', 'b'}));
}

}  // namespace
}  // namespace quern
