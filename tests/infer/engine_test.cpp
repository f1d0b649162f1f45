// The engine on tiny models: every request gets what it gets alone, whatever else runs, however little room there is.
#include "infer/engine.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <thread>

#include "support/model_harness.hpp"

namespace quern {
namespace {

constexpr std::int64_t kContext = 192;

ModelConfig model(std::size_t index) {
  ModelConfig config = tiny_models()[index].config;
  config.context = kContext;
  return config;
}
constexpr std::size_t kGpt2 = 0, kLlama = 1, kWindowed = 4;

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocab));
  return tokens;
}

/// What a request gets, without the engine: the whole prompt in one piece, then token by token.
std::vector<std::int32_t> alone(const ModelHarness& harness, ThreadTeam& team, const Request& request) {
  const auto decoder =
      Decoder::create(harness.backend, harness.weights, team, {.batch_tokens = kContext, .context_tokens = kContext})
          .value();
  const KvCache::SequenceId sequence = decoder->cache().add_sequence().value();
  Sampler sampler(harness.config.vocab, request.sampler);
  sampler.accept_prompt(request.prompt);
  std::vector<std::int32_t> input = request.prompt, tokens;
  while (std::ssize(tokens) < request.stop.max_tokens) {
    const SequenceTokens entry{sequence, input};
    EXPECT_TRUE(decoder->forward(std::span(&entry, 1)));
    input = {sampler.sample(decoder->logits(0))};
    if (std::find(request.stop.end_tokens.begin(), request.stop.end_tokens.end(), input[0]) !=
        request.stop.end_tokens.end()) {
      break;
    }
    tokens.push_back(input[0]);
    if (std::ssize(request.prompt) + std::ssize(tokens) > kContext) break;
  }
  return tokens;
}

/// Events gathered by request.
struct Collected {
  std::map<RequestId, std::vector<std::int32_t>> tokens;
  std::map<RequestId, std::string> text;
  std::map<RequestId, EngineEvent> last;

  void step(Engine& engine) {
    for (const EngineEvent& event : engine.step()) {
      EXPECT_EQ(last.count(event.request), 0U) << "an event after the last";
      if (event.token) tokens[event.request].push_back(*event.token);
      text[event.request] += event.text;
      if (event.finished) last.emplace(event.request, event);
    }
  }
  void run(Engine& engine) {
    for (int i = 0; i < 20000 && !engine.idle(); ++i) step(engine);
    EXPECT_TRUE(engine.idle());
  }
};

/// Eight requests, greedy and sampled, with and without penalties, two pairs with a common beginning of 70 tokens.
std::vector<Request> eight_requests(std::int64_t vocab) {
  std::vector<Request> requests(8);
  const std::int64_t lengths[8] = {1, 75, 40, 110, 64, 7, 90, 65};
  for (std::size_t i = 0; i < 8; ++i) {
    Request& r = requests[i];
    r.prompt = random_tokens(lengths[i], vocab, static_cast<std::uint32_t>(i));
    if (i == 3 || i == 6) std::copy_n(requests[1].prompt.begin(), 70, r.prompt.begin());
    r.sampler = {.temperature = i % 2 == 0 ? 0.0F : 0.9F, .top_p = i == 3 ? 0.8F : 1.0F, .seed = i};
    if (i == 5) r.sampler.penalties = {.last_tokens = 20, .repetition = 1.3F, .presence = 0.2F, .frequency = 0.1F};
    r.stop.max_tokens = i == 7 ? 100 : 20 + static_cast<std::int64_t>(i) * 9;
  }
  return requests;
}

struct Setting {
  EngineOptions options;
  std::int64_t batch_tokens;
  int threads;
};

class EngineOnModels : public testing::TestWithParam<std::size_t> {};

TEST_P(EngineOnModels, EightRequestsAtDifferentTimesGetWhatTheyGetAlone) {
  const ModelConfig config = model(GetParam());
  ModelHarness harness(config, {supported_kernels().front(), false}, ComputeType::f32, 1, 8);
  ThreadTeam one(1), two(2);
  const std::vector<Request> requests = eight_requests(config.vocab);
  std::vector<std::vector<std::int32_t>> expected;
  for (const Request& request : requests) expected.push_back(alone(harness, one, request));

  const Setting settings[] = {
      {{}, 64, 1},
      {{.cache_tokens = 5 * kPageTokens}, 64, 2},                                          // preemptions
      {{.cache_tokens = 4 * kPageTokens, .prefill_tokens = 3, .longest_turn = 6}, 11, 1},  // chunks and turns
      {{.sequences = 3, .share_prefixes = false}, 32, 1},
      {{.cache_tokens = 6 * kPageTokens, .longest_turn = 0, .kept_sequences = 4}, 128, 1},
  };
  for (const Setting& setting : settings) {
    SCOPED_TRACE(&setting - settings);
    auto decoder =
        Decoder::create(harness.backend, harness.weights, setting.threads == 2 && GetParam() == kLlama ? two : one,
                        {.batch_tokens = setting.batch_tokens, .context_tokens = kContext, .sequences = 8})
            .value();
    const std::int64_t room = decoder->cache().free_tokens();
    {
      auto engine = Engine::create(*decoder, nullptr, setting.options).value();
      Collected collected;
      std::vector<RequestId> ids;
      for (const Request& request : requests) {
        ids.push_back(engine->submit(request).value());
        for (std::size_t i = 0; i < ids.size() % 3 * 4; ++i) collected.step(*engine);
      }
      collected.run(*engine);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        EXPECT_EQ(collected.tokens[ids[i]], expected[i]) << i;
        ASSERT_EQ(collected.last.count(ids[i]), 1U);
        const EngineEvent& last = collected.last.at(ids[i]);
        EXPECT_EQ(last.finished, StopReason::token_limit);
        EXPECT_EQ(last.timings.tokens, std::ssize(expected[i]));
        EXPECT_EQ(last.timings.prompt_tokens, std::ssize(requests[i].prompt));
        EXPECT_GT(last.timings.first_token_seconds, 0.0);
        EXPECT_GE(last.timings.total_seconds, last.timings.first_token_seconds);
      }
      const EngineTotals& totals = engine->totals();
      EXPECT_EQ(totals.finished_requests, 8);
      if (setting.options.cache_tokens > 0) {
        EXPECT_GT(totals.preemptions, 0);
      } else {
        EXPECT_EQ(totals.preemptions, 0);
        std::int64_t tokens = -8;  // the last token of each is not fed back
        for (const auto& e : expected) tokens += std::ssize(e);
        EXPECT_EQ(totals.decode_tokens, tokens);
      }
      if (setting.options.share_prefixes && setting.options.cache_tokens == 0) {
        EXPECT_GT(totals.shared_tokens, 0);
      }
      if (!setting.options.share_prefixes) {
        EXPECT_EQ(totals.shared_tokens, 0);
      }
    }
    EXPECT_EQ(decoder->cache().free_tokens(), room) << "every page comes back";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineOnModels, testing::Values(kGpt2, kLlama, kWindowed));

class EngineTest : public testing::Test {
 protected:
  Engine& make(const EngineOptions& options = {}, std::int64_t context = kContext, std::int64_t sequences = 4) {
    engine_.reset();
    decoder_ = Decoder::create(harness_.backend, harness_.weights, team_,
                               {.batch_tokens = 32, .context_tokens = context, .sequences = sequences})
                   .value();
    engine_ = Engine::create(*decoder_, &tokenizer_, options).value();
    return *engine_;
  }
  Request request(std::int64_t prompt, std::int64_t tokens, std::uint32_t seed = 1) const {
    Request r{.prompt = random_tokens(prompt, harness_.config.vocab, seed)};
    r.sampler = {.temperature = 1.0F, .seed = seed};
    r.stop.max_tokens = tokens;
    return r;
  }

  static ModelConfig byte_model() {
    ModelConfig config = model(kLlama);
    config.vocab = 257;
    return config;
  }
  ModelHarness harness_{byte_model(), {supported_kernels().front(), false}, ComputeType::f32, 1, 8};
  ThreadTeam team_{1};
  Tokenizer tokenizer_ = Tokenizer::bytes(true);
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, CancelsWaitingAndRunningRequests) {
  Engine& engine = make({.sequences = 1});
  const RequestId running = engine.submit(request(10, 50)).value();
  const RequestId waiting = engine.submit(request(10, 50, 2)).value();
  const RequestId third = engine.submit(request(10, 5, 3)).value();
  Collected collected;
  for (int i = 0; i < 4; ++i) collected.step(engine);
  EXPECT_EQ(engine.running(), 1);
  EXPECT_EQ(engine.waiting(), 2);
  engine.cancel(waiting);
  engine.cancel(running);
  engine.cancel(12345);
  const RequestId at_once = engine.submit(request(10, 5, 4)).value();
  engine.cancel(at_once);
  collected.run(engine);
  EXPECT_EQ(collected.last.at(running).finished, StopReason::interrupted);
  EXPECT_EQ(collected.tokens[running].size(), 4U);
  EXPECT_EQ(collected.last.at(waiting).finished, StopReason::interrupted);
  EXPECT_EQ(collected.tokens.count(waiting), 0U);
  EXPECT_EQ(collected.last.at(at_once).finished, StopReason::interrupted);
  EXPECT_EQ(collected.last.at(third).finished, StopReason::token_limit);
  engine.cancel(third);
  collected.step(engine);
}

TEST_F(EngineTest, GivesTheTextOfTheTokens) {
  Engine& engine = make();
  Request r = request(20, 40);
  const RequestId plain = engine.submit(r).value();
  Collected collected;
  collected.run(engine);
  const std::string whole = tokenizer_.decode(collected.tokens[plain]);
  EXPECT_EQ(collected.text[plain], whole);

  // A stop string of two tokens from the middle of that text, where they are characters.
  std::size_t at = std::string::npos;
  for (std::size_t i = 5; i + 1 < whole.size() && at == std::string::npos; ++i) {
    const auto ascii = [&](std::size_t j) { return static_cast<unsigned char>(whole[j]) < 0x80; };
    if (ascii(i) && ascii(i + 1) && whole.find(whole.substr(i, 2)) == i) at = i;
  }
  ASSERT_NE(at, std::string::npos);
  r.stop.strings = {whole.substr(at, 2)};
  const RequestId stopped = engine.submit(r).value();
  collected.run(engine);
  EXPECT_EQ(collected.text[stopped], whole.substr(0, at));
  EXPECT_EQ(collected.last.at(stopped).finished, StopReason::stop_string);

  // End tokens: not part of the text; ignored ones are never drawn.
  r.stop.strings = {};
  r.stop.end_tokens = {collected.tokens[plain][6]};
  const RequestId ended = engine.submit(r).value();
  r.stop.ignore_end_tokens = true;
  r.stop.max_tokens = 120;
  const RequestId ignoring = engine.submit(r).value();
  collected.run(engine);
  EXPECT_EQ(collected.last.at(ended).finished, StopReason::end_of_text);
  EXPECT_EQ(collected.last.at(ended).end_token, r.stop.end_tokens[0]);
  EXPECT_LE(collected.tokens[ended].size(), 6U);
  EXPECT_EQ(collected.tokens[ignoring].size(), 120U);
  const auto& drawn = collected.tokens[ignoring];
  EXPECT_EQ(std::count(drawn.begin(), drawn.end(), r.stop.end_tokens[0]), 0);
}

TEST_F(EngineTest, FullContextStopsOrShifts) {
  Engine& engine = make({}, 40);
  Request r = request(20, 100);
  const RequestId stopped = engine.submit(r).value();
  r.when_full = FullContext::shift;
  r.keep_tokens = 4;
  const RequestId shifted = engine.submit(r).value();
  r.prompt = random_tokens(60, 257, 9);
  const RequestId cut = engine.submit(r).value();
  r.when_full = FullContext::stop;
  EXPECT_FALSE(engine.submit(r)) << "a prompt longer than the context";
  Collected collected;
  collected.run(engine);
  EXPECT_EQ(collected.last.at(stopped).finished, StopReason::context_full);
  EXPECT_EQ(collected.tokens[stopped].size(), 21U) << "the token drawn at the context's last position counts";
  EXPECT_EQ(collected.last.at(shifted).finished, StopReason::token_limit);
  EXPECT_EQ(collected.tokens[shifted].size(), 100U);
  EXPECT_EQ(std::vector(collected.tokens[shifted].begin(), collected.tokens[shifted].begin() + 21),
            collected.tokens[stopped]);
  EXPECT_EQ(collected.tokens[cut].size(), 100U);

  // After a shift the text continues as one whose prompt is the tokens kept and the newer half of the others.
  std::vector<std::int32_t> text = request(20, 1).prompt;
  text.insert(text.end(), collected.tokens[stopped].begin(), collected.tokens[stopped].end());
  ASSERT_EQ(text.size(), 41U);
  text.erase(text.begin() + 4, text.end() - 18);
  Request after = request(1, 10);
  after.prompt = text;
  Sampler sampler(257, after.sampler);
  sampler.seek(21);
  const RequestId continued = engine.submit(after, sampler).value();
  collected.run(engine);
  EXPECT_EQ(std::vector(collected.tokens[shifted].begin() + 21, collected.tokens[shifted].begin() + 31),
            collected.tokens[continued]);
}

TEST_F(EngineTest, ShiftsDoNotDependOnNeighboursAndPreemptions) {
  std::vector<Request> requests;
  for (std::uint32_t i = 0; i < 3; ++i) {
    requests.push_back(request(50 + i, 160, i));
    requests.back().when_full = FullContext::shift;
    requests.back().keep_tokens = 10 * i;
  }
  std::vector<std::vector<std::int32_t>> expected;
  for (const Request& r : requests) {
    Engine& engine = make({}, 100);
    const RequestId id = engine.submit(r).value();
    Collected collected;
    collected.run(engine);
    expected.push_back(collected.tokens[id]);
    EXPECT_EQ(expected.back().size(), 160U);
  }
  Engine& engine = make({.cache_tokens = 3 * kPageTokens, .longest_turn = 20}, 100);
  ASSERT_EQ(engine.context_tokens(), 100);
  std::vector<RequestId> ids;
  for (const Request& r : requests) ids.push_back(engine.submit(r).value());
  Collected collected;
  collected.run(engine);
  EXPECT_GT(engine.totals().preemptions, 2);
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(collected.tokens[ids[i]], expected[i]) << i;
}

TEST_F(EngineTest, ACacheSmallerThanTheContextIsTheContext) {
  Engine& engine = make({.cache_tokens = kPageTokens});
  EXPECT_EQ(engine.context_tokens(), kPageTokens);
  const RequestId first = engine.submit(request(30, 100)).value();
  const RequestId second = engine.submit(request(30, 100, 2)).value();
  Collected collected;
  collected.run(engine);
  EXPECT_EQ(collected.last.at(first).finished, StopReason::context_full);
  EXPECT_EQ(collected.tokens[first].size(), 35U);
  EXPECT_EQ(collected.tokens[second].size(), 35U);
}

TEST_F(EngineTest, KeptSequencesSaveTheNextTurnItsPrefill) {
  Engine& engine = make({.kept_sequences = 1});
  const std::int64_t room = decoder_->cache().free_tokens();
  const Request turn = request(70, 20);
  const RequestId first = engine.submit(turn).value();
  Collected collected;
  collected.run(engine);
  Request next = turn;
  next.prompt.insert(next.prompt.end(), collected.tokens[first].begin(), collected.tokens[first].end());
  const auto more = random_tokens(15, 257, 8);
  next.prompt.insert(next.prompt.end(), more.begin(), more.end());
  const RequestId second = engine.submit(next).value();
  collected.run(engine);
  EXPECT_EQ(collected.last.at(second).timings.shared_tokens, 70 + 19) << "the last token drawn was not computed";
  EXPECT_EQ(collected.last.at(second).timings.prefill_tokens, 16);
  EXPECT_EQ(collected.tokens[second], alone(harness_, team_, next));

  // What is kept can be given back.
  EXPECT_LT(decoder_->cache().free_tokens(), room);
  engine.forget_kept_sequences();
  EXPECT_EQ(decoder_->cache().free_tokens(), room);
  const RequestId third = engine.submit(next).value();
  collected.run(engine);
  EXPECT_EQ(collected.last.at(third).timings.shared_tokens, 0);
  EXPECT_EQ(collected.tokens[third], collected.tokens[second]);
}

TEST_F(EngineTest, AnswersToOnePromptShareIt) {
  Engine& engine = make();
  std::vector<RequestId> ids;
  std::vector<Request> requests;
  for (std::uint32_t i = 0; i < 4; ++i) {
    requests.push_back(request(130, 12));
    requests.back().sampler.seed = i;
    ids.push_back(engine.submit(requests.back()).value());
  }
  Collected collected;
  collected.run(engine);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(collected.tokens[ids[i]], alone(harness_, team_, requests[i])) << i;
    EXPECT_EQ(collected.last.at(ids[i]).timings.shared_tokens, i == 0 ? 0 : 2 * kPageTokens);
  }
  EXPECT_EQ(engine.totals().prefill_tokens, 130 + 3 * 2);
}

/// A decoder whose forward() fails when told to.
class FailingDecoder final : public Decoder {
 public:
  explicit FailingDecoder(Decoder& decoder) : decoder_(decoder) {}
  KvCache& cache() override { return decoder_.cache(); }
  const Limits& limits() const override { return decoder_.limits(); }
  const ModelWeights& weights() const override { return decoder_.weights(); }
  std::span<const float> logits(std::int64_t i) const override {
    static const std::vector<float> nans(4096, std::nanf(""));
    return calls == nan_call ? std::span(nans).first(decoder_.logits(i).size()) : decoder_.logits(i);
  }
  Result<void> forward(std::span<const SequenceTokens> batch) override {
    if (++calls % 5 == 0 && batch.size() > 1 && code == ErrorCode::no_memory) return no_memory("no page");
    if (calls == 5 && code != ErrorCode::no_memory) return tl::make_unexpected(Error{code, "broken"});
    return decoder_.forward(batch);
  }
  ErrorCode code = ErrorCode::no_memory;
  int calls = 0, nan_call = 0;

 private:
  Decoder& decoder_;
};

TEST_F(EngineTest, ABatchThatDoesNotFitAfterAllIsMadeSmaller) {
  make();
  engine_.reset();
  FailingDecoder failing(*decoder_);
  auto engine = Engine::create(failing, &tokenizer_).value();
  std::vector<Request> requests;
  std::vector<RequestId> ids;
  for (std::uint32_t i = 0; i < 4; ++i) {
    requests.push_back(request(6 + i, 15, i));
    ids.push_back(engine->submit(requests[i]).value());
  }
  Collected collected;
  collected.run(*engine);
  EXPECT_GT(engine->totals().preemptions, 0);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(collected.tokens[ids[i]], alone(harness_, team_, requests[i])) << i;
  }
}

TEST_F(EngineTest, OtherErrorsEndTheRequestsOfTheBatchAlone) {
  make();
  engine_.reset();
  const std::int64_t room = decoder_->cache().free_tokens();
  FailingDecoder failing(*decoder_);
  failing.code = ErrorCode::unsupported;
  auto engine = Engine::create(failing, &tokenizer_, {.sequences = 2}).value();
  std::vector<RequestId> ids;
  for (std::uint32_t i = 0; i < 3; ++i) ids.push_back(engine->submit(request(6, 15, i)).value());
  Collected collected;
  collected.run(*engine);
  for (const std::size_t i : {0U, 1U}) {
    const EngineEvent& last = collected.last.at(ids[i]);
    EXPECT_EQ(last.finished, StopReason::failed);
    ASSERT_TRUE(last.error);
    EXPECT_EQ(last.error->message, "broken");
    EXPECT_EQ(collected.tokens[ids[i]].size(), 4U);
  }
  EXPECT_EQ(collected.last.at(ids[2]).finished, StopReason::token_limit);
  EXPECT_EQ(decoder_->cache().free_tokens(), room);
}

TEST_F(EngineTest, LogitsThatAreNoNumbersEndTheRequest) {
  make();
  engine_.reset();
  FailingDecoder failing(*decoder_);
  failing.nan_call = 3;
  auto engine = Engine::create(failing, &tokenizer_).value();
  const RequestId id = engine->submit(request(6, 15)).value();
  Collected collected;
  collected.run(*engine);
  const EngineEvent& last = collected.last.at(id);
  EXPECT_EQ(last.finished, StopReason::failed);
  ASSERT_TRUE(last.error);
  EXPECT_NE(last.error->message.find("logits is a number"), std::string::npos) << last.error->message;
  EXPECT_EQ(collected.tokens[id].size(), 2U);
}

TEST_F(EngineTest, LogProbabilitiesAreOfTheRawLogits) {
  Engine& engine = make();
  Request r = request(9, 6);
  r.sampler.temperature = 0.0F;
  r.top_log_probabilities = 3;
  ASSERT_TRUE(engine.submit(r));
  int seen = 0;
  while (!engine.idle()) {
    for (const EngineEvent& event : engine.step()) {
      ASSERT_TRUE(event.log_probabilities);
      ASSERT_EQ(event.log_probabilities->top.size(), 3U);
      EXPECT_EQ(event.log_probabilities->chosen.token, event.token);
      EXPECT_EQ(event.log_probabilities->top[0].token, event.token);
      EXPECT_EQ(event.log_probabilities->top[0].log_probability, event.log_probabilities->chosen.log_probability);
      ++seen;
    }
  }
  EXPECT_EQ(seen, 6);
}

TEST_F(EngineTest, RefusesWrongRequestsInASentence) {
  Engine& engine = make();
  const auto refused = [&](const Request& r, std::string_view word) {
    const auto id = engine.submit(r);
    ASSERT_FALSE(id) << word;
    EXPECT_NE(id.error().message.find(word), std::string::npos) << id.error().message;
  };
  Request r = request(4, 4);
  r.prompt = {};
  refused(r, "no tokens");
  r.prompt = {1, 257};
  refused(r, "257");
  r = request(kContext + 1, 4);
  refused(r, "room for 192");
  r = request(4, 0);
  refused(r, "max_tokens");
  r = request(4, 4);
  r.sampler.top_p = 0.0F;
  refused(r, "top_p");
  r = request(4, 4);
  r.keep_tokens = kContext;
  refused(r, "keep_tokens");
  r = request(4, 4);
  r.top_log_probabilities = -1;
  refused(r, "top_log_probabilities");
  EXPECT_TRUE(engine.idle());
  EXPECT_TRUE(engine.step().empty());
  EXPECT_FALSE(engine.wait(std::chrono::milliseconds(1)));

  auto textless = Engine::create(*decoder_, nullptr).value();
  r = request(4, 4);
  r.stop.strings = {"x"};
  EXPECT_FALSE(textless->submit(r));
  EXPECT_FALSE(Engine::create(*decoder_, nullptr, {.batch_tokens = 33}));
  EXPECT_FALSE(Engine::create(*decoder_, nullptr, {.sequences = 5}));
  EXPECT_FALSE(Engine::create(*decoder_, nullptr, {.cache_tokens = -1}));
}

TEST_F(EngineTest, RequestsComeFromOtherThreads) {
  Engine& engine = make();
  std::vector<std::thread> clients;
  std::vector<RequestId> ids(12);
  for (std::size_t c = 0; c < 3; ++c) {
    clients.emplace_back([&, c] {
      for (std::size_t i = 0; i < 4; ++i) {
        ids[c * 4 + i] = engine.submit(request(8, 10, static_cast<std::uint32_t>(c * 4 + i))).value();
        if (i == 3) engine.cancel(ids[c * 4 + i]);
      }
    });
  }
  Collected collected;
  for (int i = 0; i < 2000 && collected.last.size() < 12; ++i) {
    if (engine.wait(std::chrono::milliseconds(100))) collected.step(engine);
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(collected.last.size(), 12U);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (i % 4 != 3) {
      EXPECT_EQ(collected.tokens[ids[i]].size(), 10U);
    }
  }
}

}  // namespace
}  // namespace quern
