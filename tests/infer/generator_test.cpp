// generate(): one request to its end, with and without text.
#include "infer/generator.hpp"

#include <gtest/gtest.h>

#include "support/model_harness.hpp"

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
  const auto ended = generate(*decoder_, prompt_, sampler, {.max_tokens = 20, .end_token = end});
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
