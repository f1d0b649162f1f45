// Speculative decoding on tiny models: the same tokens, events and cache as without, whoever proposes and whatever happens
// in the middle of an accepted run.
#include "infer/speculation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "infer/engine.hpp"
#include "infer/generator.hpp"
#include "infer/model_drafter.hpp"
#include "model/gguf_model.hpp"
#include "support/model_harness.hpp"
#include "support/published_models.hpp"

namespace quern {
namespace {

constexpr std::int64_t kContext = 192;

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocab));
  return tokens;
}

/// What an engine gives for requests that arrive one after another.
struct Answers {
  std::map<RequestId, std::vector<std::int32_t>> tokens;
  std::map<RequestId, std::string> text;
  std::map<RequestId, std::vector<float>> log_probabilities;
  std::map<RequestId, EngineEvent> last;
  EngineTotals totals;

  void expect_same(const Answers& other) const {
    EXPECT_EQ(tokens, other.tokens);
    EXPECT_EQ(text, other.text);
    EXPECT_EQ(log_probabilities, other.log_probabilities);
    ASSERT_EQ(last.size(), other.last.size());
    for (const auto& [id, event] : last) {
      EXPECT_EQ(event.finished, other.last.at(id).finished) << id;
      EXPECT_EQ(event.end_token, other.last.at(id).end_token) << id;
      EXPECT_EQ(event.timings.tokens, other.last.at(id).timings.tokens) << id;
      if (totals.preemptions + other.totals.preemptions > 0) continue;  // then some are drawn after a prefill
      EXPECT_EQ(event.timings.decode_tokens, other.last.at(id).timings.decode_tokens) << id;
    }
  }
};

struct Asked {
  Request request;
  int steps_before = 0;
};

Answers answers(Decoder& decoder, const Tokenizer* tokenizer, const std::vector<Asked>& asked, EngineOptions options) {
  Answers result;
  const std::int64_t room = decoder.cache().free_tokens();
  {
    auto engine = Engine::create(decoder, tokenizer, options).value();
    const auto step = [&] {
      for (const EngineEvent& event : engine->step()) {
        EXPECT_EQ(result.last.count(event.request), 0U) << "an event after the last";
        EXPECT_FALSE(event.error) << event.error->message;
        if (event.token) result.tokens[event.request].push_back(*event.token);
        result.text[event.request] += event.text;
        if (event.log_probabilities) {
          result.log_probabilities[event.request].push_back(event.log_probabilities->chosen.log_probability);
        }
        if (event.finished) result.last.emplace(event.request, event);
      }
    };
    for (const Asked& one : asked) {
      for (int i = 0; i < one.steps_before; ++i) step();
      const auto id = engine->submit(one.request);
      EXPECT_TRUE(id) << id.error().message;
    }
    for (int i = 0; i < 20000 && !engine->idle(); ++i) step();
    EXPECT_TRUE(engine->idle());
    result.totals = engine->totals();
  }
  EXPECT_EQ(decoder.cache().free_tokens(), room) << "every page comes back";
  return result;
}

/// Greedy and sampled requests, one after another, so that each is alone.
std::vector<Asked> requests_in_turn(std::int64_t vocab) {
  std::vector<Asked> asked(6);
  for (std::size_t i = 0; i < asked.size(); ++i) {
    Request& r = asked[i].request;
    r.prompt = random_tokens(3 + static_cast<std::int64_t>(i) * 9, vocab, static_cast<std::uint32_t>(i));
    r.sampler = {.temperature = i % 2 == 0 ? 0.0F : 0.25F * static_cast<float>(i), .seed = i};
    if (i == 2 || i == 3) r.sampler.penalties = {.last_tokens = 30, .repetition = 1.1F, .presence = 0.1F};
    if (i == 5) r.sampler.top_k = 3;
    r.stop.max_tokens = 30 + static_cast<std::int64_t>(i) * 12;
    if (i == 1) r.top_log_probabilities = 2;
    asked[i].steps_before = i == 0 ? 0 : 150;
  }
  return asked;
}

class SpeculationOnModels : public testing::TestWithParam<std::size_t> {};

TEST_P(SpeculationOnModels, DrawsTheSameTokens) {
  ModelConfig config = tiny_models()[GetParam()].config;
  config.context = kContext;
  ThreadTeam team(1);
  for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
    if (compute == ComputeType::bf16 && GetParam() % 3 != 0) continue;  // time
    const Backend backend{supported_kernels().front(), false};
    ModelHarness model(config, backend, compute, 1, 8), other(config, backend, compute, 1, 8, 99);
    const Decoder::Limits limits{.batch_tokens = 40, .context_tokens = kContext, .logit_rows = kExactRows};
    auto decoder = Decoder::create(backend, model.weights, team, limits).value();
    const std::vector<Asked> asked = requests_in_turn(config.vocab);
    const EngineOptions plain{.sequences = 1};
    const Answers expected = answers(*decoder, nullptr, asked, plain);
    EXPECT_EQ(expected.totals.drafted_tokens, 0);

    EngineOptions options = plain;
    for (const std::int64_t most : {4, 31}) {
      for (const bool adaptive : {false, true}) {
        if (adaptive && most == 4) continue;
        options.speculation = {.source = DraftSource::ngram, .tokens = most, .adaptive = adaptive};
        const Answers found = answers(*decoder, nullptr, asked, options);
        found.expect_same(expected);
        if (!adaptive) {
          EXPECT_GT(found.totals.drafted_tokens, 0);
        }
      }
    }
    // A draft model that is always right, in exact arithmetic and with the same random numbers; and one that hardly ever is.
    for (const ModelHarness* draft : {&model, &other}) {
      auto draft_decoder = Decoder::create(backend, draft->weights, team, {.batch_tokens = 16, .context_tokens = kContext});
      for (const bool adaptive : {false, true}) {
        if (adaptive && compute == ComputeType::bf16) continue;
        options.speculation = {
            .source = DraftSource::model, .tokens = 7, .adaptive = adaptive, .draft = draft_decoder->get()};
        const Answers found = answers(*decoder, nullptr, asked, options);
        found.expect_same(expected);
        if (adaptive) continue;
        EXPECT_GT(found.totals.drafted_tokens, 0);
        if (draft == &model) {
          EXPECT_GT(found.totals.accepted_tokens * 2, found.totals.drafted_tokens);  // penalties are not drafted
        } else {
          EXPECT_LT(found.totals.accepted_tokens, found.totals.drafted_tokens);
        }
      }
      EXPECT_EQ((*draft_decoder)->cache().free_tokens(), draft_decoder->get()->limits().cache_tokens);
    }
  }
}
std::vector<std::size_t> model_indices() {
  std::vector<std::size_t> indices(tiny_models().size());
  for (std::size_t i = 0; i < indices.size(); ++i) indices[i] = i;
  return indices;
}
INSTANTIATE_TEST_SUITE_P(Models, SpeculationOnModels, testing::ValuesIn(model_indices()),
                         [](const auto& model) { return tiny_models()[model.param].name; });

TEST(Speculation, DrawsTheSameTokensOverQuantizedWeights) {
  ThreadTeam team(1);
  for (const PublishedModel& published : published_models()) {
    if (!published.block_weights) continue;
    SCOPED_TRACE(published.name);
    const std::vector<std::byte> image = published_model_image(published);
    const auto file = GgufFile::parse(image, published.name).value();
    const ModelConfig config = model_config_from_gguf(file).value();
    const auto bound = bind_gguf_weights(file, config, WeightPrecision::fast, kContext).value();
    for (const KernelTable* table : supported_kernels()) {
      SCOPED_TRACE(std::string(isa_name(table->isa)));
      const Decoder::Limits limits{.batch_tokens = 64, .context_tokens = kContext, .logit_rows = kExactRows};
      auto decoder = Decoder::create({table, false}, bound.weights, team, limits).value();
      auto draft = Decoder::create({table, false}, bound.weights, team, {.batch_tokens = 32, .context_tokens = kContext});
      std::vector<Asked> asked = requests_in_turn(config.vocab);
      asked.resize(2);
      const Answers expected = answers(*decoder, nullptr, asked, {.sequences = 1});
      EngineOptions options{.sequences = 1};
      options.speculation = {.source = DraftSource::ngram, .adaptive = false};
      answers(*decoder, nullptr, asked, options).expect_same(expected);
      options.speculation = {.source = DraftSource::model, .tokens = 6, .adaptive = false, .draft = draft->get()};
      const Answers found = answers(*decoder, nullptr, asked, options);
      found.expect_same(expected);
      EXPECT_GT(found.totals.accepted_tokens * 4, found.totals.drafted_tokens * 3);
    }
  }
}

class SpeculationTest : public testing::Test {
 protected:
  static ModelConfig byte_model() {
    ModelConfig config = tiny_models()[4].config;  // windowed layers
    config.context = kContext;
    config.vocab = 257;
    return config;
  }
  Decoder& decoder(std::int64_t context, std::int64_t sequences = 1) {
    decoder_ = Decoder::create(harness_.backend, harness_.weights, team_,
                               {.batch_tokens = 40, .context_tokens = context, .sequences = sequences, .logit_rows = 32})
                   .value();
    draft_ =
        Decoder::create(harness_.backend, harness_.weights, team_, {.batch_tokens = 40, .context_tokens = context}).value();
    return *decoder_;
  }
  /// The same answers without speculation, with lookup, and with a draft model that is nearly always right.
  Answers expect_same_answers(Decoder& decoder, const std::vector<Asked>& asked, EngineOptions options,
                              bool accepts = true) {
    const Answers expected = answers(decoder, &tokenizer_, asked, options);
    options.speculation = {.source = DraftSource::ngram, .adaptive = false};
    answers(decoder, &tokenizer_, asked, options).expect_same(expected);
    for (const std::int64_t most : {2, 6, 31}) {
      options.speculation = {.source = DraftSource::model, .tokens = most, .adaptive = false, .draft = draft_.get()};
      const Answers found = answers(decoder, &tokenizer_, asked, options);
      found.expect_same(expected);
      if (options.sequences == 1 && expected.totals.decode_tokens > 20) {
        EXPECT_EQ(found.totals.accepted_tokens > 0, accepts);
      }
    }
    return expected;
  }
  Request request(std::int64_t prompt, std::int64_t tokens, float temperature = 1.0F) const {
    Request r{.prompt = random_tokens(prompt, 257, 3)};
    r.sampler = {.temperature = temperature, .seed = 5};
    r.stop.max_tokens = tokens;
    return r;
  }

  ModelHarness harness_{byte_model(), {supported_kernels().front(), false}, ComputeType::f32, 1, 8};
  ThreadTeam team_{1};
  Tokenizer tokenizer_ = Tokenizer::bytes(true);
  std::unique_ptr<Decoder> decoder_, draft_;
};

TEST_F(SpeculationTest, EndsInTheMiddleOfAnAcceptedRun) {
  Decoder& d = decoder(kContext);
  const Answers whole = answers(d, &tokenizer_, {{request(20, 60)}}, {.sequences = 1});
  const std::vector<std::int32_t> tokens = whole.tokens.at(1);
  const std::string text = whole.text.at(1);
  for (const std::size_t at : {1U, 2U, 3U, 5U, 11U, 12U, 13U}) {
    SCOPED_TRACE(at);
    Request ends = request(20, 60);
    ends.stop.end_tokens = {tokens[at]};
    const Answers ended = expect_same_answers(d, {{ends}}, {.sequences = 1});
    EXPECT_EQ(ended.last.at(1).finished, StopReason::end_of_text);
    expect_same_answers(d, {{request(20, static_cast<std::int64_t>(at))}}, {.sequences = 1});
  }
  Request stopped = request(20, 60);
  for (std::size_t i = 0; i + 1 < text.size() && stopped.stop.strings.empty(); ++i) {
    const auto ascii = [&](std::size_t j) { return static_cast<unsigned char>(text[j]) < 0x80 && text[j] > 0x20; };
    if (ascii(i) && ascii(i + 1)) stopped.stop.strings = {text.substr(i, 2)};
  }
  ASSERT_FALSE(stopped.stop.strings.empty());
  EXPECT_EQ(expect_same_answers(d, {{stopped}}, {.sequences = 1}).last.at(1).finished, StopReason::stop_string);
}

TEST_F(SpeculationTest, StopsAndShiftsAtTheContextsEnd) {
  for (const std::int64_t context : {40, 41, 100, 160}) {
    SCOPED_TRACE(context);
    Decoder& d = decoder(context);
    Request r = request(20, 300);
    expect_same_answers(d, {{r}}, {.sequences = 1});
    r.when_full = FullContext::shift;
    for (const std::int64_t keep : {0, 4}) {
      r.keep_tokens = keep;
      const Answers shifted = expect_same_answers(d, {{r}}, {.sequences = 1});
      EXPECT_EQ(shifted.tokens.at(1).size(), 300U);
    }
  }
}

TEST_F(SpeculationTest, KeptSequencesHoldOnlyWhatWasDrawn) {
  Decoder& d = decoder(kContext, 2);
  Request first = request(30, 20);
  const Answers turn = answers(d, &tokenizer_, {{first}}, {.sequences = 1});
  Request second = first;
  second.prompt.insert(second.prompt.end(), turn.tokens.at(1).begin(), turn.tokens.at(1).end());
  second.prompt.push_back(7);
  const Answers expected =
      expect_same_answers(d, {{first}, {second, 150}}, {.sequences = 1, .share_prefixes = true, .kept_sequences = 1});
  EXPECT_GE(expected.last.at(2).timings.shared_tokens, 48);
}

TEST_F(SpeculationTest, ManyRequestsGetWhatTheyGetWithout) {
  Decoder& d = decoder(kContext, 6);
  std::vector<Asked> asked;
  for (std::uint32_t i = 0; i < 6; ++i) {
    Request r = request(15 + 8 * i, 40 + 10 * i, i % 2 == 0 ? 0.0F : 0.6F);
    r.prompt = random_tokens(15 + 8 * i, 20, i);
    if (i == 4) std::copy_n(asked[3].request.prompt.begin(), 30, r.prompt.begin());
    asked.push_back({r, static_cast<int>(i) * 3});
  }
  for (const EngineOptions& options :
       {EngineOptions{}, EngineOptions{.cache_tokens = 4 * kPageTokens, .longest_turn = 6},
        EngineOptions{.batch_tokens = 7, .prefill_tokens = 3}, EngineOptions{.sequences = 3, .share_prefixes = false}}) {
    expect_same_answers(d, asked, options);
  }
}

TEST_F(SpeculationTest, CallersStopWhereTheySay) {
  Decoder& d = decoder(kContext);
  const Request r = request(20, 60);
  for (const SpeculationOptions& speculation :
       {SpeculationOptions{}, SpeculationOptions{.source = DraftSource::model, .adaptive = false, .draft = draft_.get()}}) {
    std::int64_t seen = 0;
    const auto generation = generate(
        d, &tokenizer_, r, [&](const EngineEvent& event) { return !event.token || ++seen < 5; }, speculation);
    ASSERT_TRUE(generation);
    EXPECT_EQ(generation->tokens.size(), 5U);
    EXPECT_EQ(generation->stop, StopReason::interrupted);
  }
}

TEST_F(SpeculationTest, CountsWhatItDid) {
  Decoder& d = decoder(kContext);
  const SpeculationOptions speculation{.source = DraftSource::model, .tokens = 3, .adaptive = false, .draft = draft_.get()};
  const auto plain = generate(d, &tokenizer_, request(20, 41)),
             fast = generate(d, &tokenizer_, request(20, 41), {}, speculation);
  ASSERT_TRUE(plain && fast);
  EXPECT_EQ(plain->timings.decode_steps, 40);
  EXPECT_EQ(plain->timings.decode_tokens, 40);
  EXPECT_EQ(plain->timings.drafted_tokens, 0);
  EXPECT_EQ(fast->timings.decode_tokens, 40);
  EXPECT_EQ(fast->timings.decode_steps, 10) << "each pass draws four tokens";
  EXPECT_EQ(fast->timings.drafted_tokens, 30);
  EXPECT_EQ(fast->timings.accepted_tokens, 30);
  EXPECT_GT(fast->timings.draft_seconds, 0.0);
  EXPECT_LT(fast->timings.draft_seconds, fast->timings.decode_seconds);
}

TEST_F(SpeculationTest, ADraftModelWithAShorterContextDraftsFromTheEnd) {
  Decoder& d = decoder(kContext);
  const Answers expected = answers(d, &tokenizer_, {{request(90, 100, 0.0F)}}, {.sequences = 1});
  auto draft = Decoder::create(harness_.backend, harness_.weights, team_, {.batch_tokens = 8, .context_tokens = 24}).value();
  EngineOptions options{.sequences = 1};
  for (const std::int64_t most : {4, 31}) {
    options.speculation = {.source = DraftSource::model, .tokens = most, .adaptive = false, .draft = draft.get()};
    const Answers found = answers(d, &tokenizer_, {{request(90, 100, 0.0F)}}, options);
    found.expect_same(expected);
    EXPECT_GT(found.totals.drafted_tokens, 0);
  }
}

TEST_F(SpeculationTest, ProposesNoMoreThanTheDecoderHasRowsFor) {
  decoder(kContext);
  for (const std::int64_t rows : {1, 2, 3}) {
    auto narrow = Decoder::create(harness_.backend, harness_.weights, team_,
                                  {.batch_tokens = 8, .context_tokens = kContext, .sequences = 1, .logit_rows = rows})
                      .value();
    const Answers found = expect_same_answers(*narrow, {{request(20, 40)}}, {.sequences = 1}, rows > 1);
    EXPECT_EQ(found.last.at(1).finished, StopReason::token_limit);
  }
}

TEST_F(SpeculationTest, RefusesWrongOptionsInASentence) {
  Decoder& d = decoder(kContext);
  const auto error = [&](const SpeculationOptions& speculation) {
    const auto engine = Engine::create(d, nullptr, {.speculation = speculation});
    return engine ? "" : engine.error().message;
  };
  EXPECT_EQ(error({.source = DraftSource::model, .draft = draft_.get()}), "");
  EXPECT_NE(error({.source = DraftSource::model}).find("needs a draft model"), std::string::npos);
  EXPECT_NE(error({.source = DraftSource::model, .draft = &d}).find("of its own"), std::string::npos);
  EXPECT_NE(error({.source = DraftSource::ngram, .tokens = kExactRows}).find("speculation.tokens"), std::string::npos);
}

TEST(DraftVocabulary, MustBeTheModels) {
  const Tokenizer a = Tokenizer::bytes(true), b = Tokenizer::bytes(false);
  EXPECT_TRUE(check_draft_vocabulary(a, a));
  const auto different = check_draft_vocabulary(a, b);
  ASSERT_FALSE(different);
  EXPECT_NE(different.error().message.find("expected 257 tokens, found 256"), std::string::npos)
      << different.error().message;
}

}  // namespace
}  // namespace quern
