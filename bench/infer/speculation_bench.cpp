// Speculative decoding beside plain decoding, step by step in turn, so that both see the same machine.
//
//     speculation_bench MODEL --prompt FILE [--text FILE] [-n TOKENS] [--context N] [--temperature T] [--seed S]
//                       [--draft MODEL] [--rounds R] [--precision auto|f32] [--tokenizer MODEL]
//
// With --text both continue the prompt with exactly that text, whatever the model would say: what a model that writes this
// text would cost. Models of real shapes with random weights can be measured so, with the vocabulary of another
// file where their own is made up. Without it the model draws.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "infer/engine.hpp"
#include "infer/generator.hpp"
#include "infer/loaded_model.hpp"
#include "infer/model_drafter.hpp"
#include "math/dispatch.hpp"
#include "model/atomic_file.hpp"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

/// Draws the tokens of a given text.
class ReplayStep final : public SamplerStep {
 public:
  explicit ReplayStep(std::vector<std::int32_t> text) : text_(std::move(text)) {}
  void apply(SamplerCandidates& candidates) override {
    candidates.items()[0] = {.logit = 0.0F, .token = text_[std::min(at_, text_.size() - 1)]};
    candidates.keep(1);
  }
  void accept(std::int32_t /*token*/) override { ++at_; }

 private:
  std::vector<std::int32_t> text_;
  std::size_t at_ = 0;
};

struct Options {
  std::string model, prompt, text, tokenizer, draft, precision = "auto";
  std::int64_t tokens = 0, context = 0, rounds = 3;
  std::int64_t batch = 512;
  float temperature = 0.0F;
  std::uint64_t seed = 1;
};

/// One way to decode: a decoder and an engine, and what they took for tokens after the first.
struct Side {
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Sampler> replay;
  std::vector<std::int32_t> tokens;
  double seconds = 0.0;
  RequestTimings timings;
  bool finished = false;

  bool step() {
    const bool counts = !tokens.empty();
    const Clock::time_point start = Clock::now();
    const auto events = engine->step();
    if (counts) seconds += std::chrono::duration<double>(Clock::now() - start).count();
    for (const EngineEvent& event : events) {
      if (event.error) std::fprintf(stderr, "%s\n", event.error->message.c_str());
      if (event.token) tokens.push_back(*event.token);
      if (!event.finished) continue;
      finished = true;
      timings = event.timings;
    }
    return finished;
  }
  double rate() const { return static_cast<double>(tokens.size() - 1) / seconds; }
};

Result<std::vector<std::int32_t>> tokens_of(const Tokenizer& tokenizer, const std::string& path) {
  auto text = read_whole_file(path, std::size_t{1} << 24);
  if (!text) return tl::make_unexpected(text.error());
  return tokenizer.encode(*text);
}

Result<int> run(const Options& options) {
  const auto kernels = chosen_kernels();
  if (!kernels) return tl::make_unexpected(kernels.error());
  const Backend backend{*kernels, false};
  ThreadTeam team(default_thread_count());
  LoadOptions load{.context_tokens = options.context};
  if (options.precision == "f32") load.precision = Precision::f32;
  const auto model = LoadedModel::load(options.model, backend, team, load);
  if (!model) return tl::make_unexpected(model.error());
  std::optional<Tokenizer> other;
  if (!options.tokenizer.empty()) {
    const auto file = GgufFile::open(options.tokenizer);
    if (!file) return tl::make_unexpected(file.error());
    auto read = Tokenizer::from_gguf(*file);
    if (!read) return tl::make_unexpected(read.error());
    other = std::move(*read);
  }
  const Tokenizer& tokenizer = other ? *other : (*model)->tokenizer();
  auto prompt = tokens_of(tokenizer, options.prompt);
  if (!prompt) return tl::make_unexpected(prompt.error());
  std::vector<std::int32_t> whole = *prompt;
  if (!options.text.empty()) {
    const auto text = tokens_of(tokenizer, options.text);
    if (!text) return tl::make_unexpected(text.error());
    whole.insert(whole.end(), text->begin(), text->end());
  }
  std::int64_t count = options.tokens > 0 ? options.tokens : std::ssize(whole) - std::ssize(*prompt);
  const std::int64_t context = (*model)->context_tokens();
  count = std::min(count, context - std::ssize(*prompt));
  if (count < 2) return bad_input("nothing to continue: give --text or -n, and a context with room for it");

  std::unique_ptr<LoadedModel> draft;
  std::unique_ptr<Decoder> draft_decoder;
  SpeculationOptions speculation{.source = DraftSource::ngram};
  if (!options.draft.empty()) {
    load.context_tokens = context;
    auto loaded = LoadedModel::load(options.draft, backend, team, load);
    if (!loaded) return tl::make_unexpected(loaded.error());
    draft = std::move(*loaded);
    if (auto same = check_draft_vocabulary(tokenizer, draft->tokenizer()); !same) return tl::make_unexpected(same.error());
    auto made = Decoder::create(backend, draft->weights(), team, {.batch_tokens = options.batch, .context_tokens = context});
    if (!made) return tl::make_unexpected(made.error());
    draft_decoder = std::move(*made);
    speculation = {.source = DraftSource::model, .draft = draft_decoder.get()};
  }

  std::printf("%zu tokens of prompt, %lld drawn%s\n", prompt->size(), static_cast<long long>(count),
              options.text.empty() ? "" : " from the text");
  std::printf("round  plain tok/s  speculative tok/s  ratio  passes  drafted  right  tokens a pass\n");
  std::vector<double> ratios, plain_rates, fast_rates;
  for (std::int64_t round = 0; round < options.rounds; ++round) {
    Side sides[2];
    for (Side& side : sides) {
      const bool fast = &side == &sides[1];
      auto decoder = Decoder::create(backend, (*model)->weights(), team,
                                     {.batch_tokens = std::min(context, options.batch),
                                      .context_tokens = context,
                                      .logit_rows = fast ? kExactRows : 1});
      if (!decoder) return tl::make_unexpected(decoder.error());
      side.decoder = std::move(*decoder);
      EngineOptions engine_options{.sequences = 1};
      if (fast) engine_options.speculation = speculation;
      auto engine = Engine::create(*side.decoder, &tokenizer, engine_options);
      if (!engine) return tl::make_unexpected(engine.error());
      side.engine = std::move(*engine);
      Request request{.prompt = *prompt};
      request.stop.max_tokens = count;
      request.stop.ignore_end_tokens = true;
      Result<RequestId> id;
      if (options.text.empty()) {
        request.sampler = {.temperature = options.temperature, .seed = options.seed + static_cast<std::uint64_t>(round)};
        id = side.engine->submit(std::move(request));
      } else {
        std::vector<std::unique_ptr<SamplerStep>> chain;
        chain.push_back(std::make_unique<ReplayStep>(whole));
        side.replay = std::make_unique<Sampler>((*model)->weights().config.vocab, std::move(chain), 0);
        id = side.engine->submit(std::move(request), *side.replay);
      }
      if (!id) return tl::make_unexpected(id.error());
    }
    while (!sides[0].finished || !sides[1].finished) {  // whoever has fewer tokens goes on
      Side& next = sides[0].finished                                  ? sides[1]
                   : sides[1].finished                                ? sides[0]
                   : sides[0].tokens.size() <= sides[1].tokens.size() ? sides[0]
                                                                      : sides[1];
      next.step();
    }
    if (sides[0].tokens != sides[1].tokens) return bad_input("the two texts differ");
    const RequestTimings& t = sides[1].timings;
    plain_rates.push_back(sides[0].rate());
    fast_rates.push_back(sides[1].rate());
    ratios.push_back(fast_rates.back() / plain_rates.back());
    std::printf("%5lld  %11.2f  %17.2f  %5.2f  %6lld  %7lld  %5lld  %13.2f\n", static_cast<long long>(round + 1),
                plain_rates.back(), fast_rates.back(), ratios.back(), static_cast<long long>(t.decode_steps),
                static_cast<long long>(t.drafted_tokens), static_cast<long long>(t.accepted_tokens),
                static_cast<double>(t.decode_tokens) / static_cast<double>(t.decode_steps));
    std::fflush(stdout);
  }
  for (auto* list : {&plain_rates, &fast_rates, &ratios}) std::sort(list->begin(), list->end());
  const std::size_t middle = ratios.size() / 2;
  std::printf("median %10.2f  %17.2f  %5.2f\n", plain_rates[middle], fast_rates[middle], ratios[middle]);
  return 0;
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  quern::Options options;
  CLI::App app("Speculative decoding beside plain decoding");
  app.add_option("MODEL", options.model)->required();
  app.add_option("--prompt", options.prompt, "File with the text to continue")->required();
  app.add_option("--text", options.text, "File with the continuation that is drawn; without: what the model says");
  app.add_option("-n", options.tokens, "Tokens to draw; 0: all of --text");
  app.add_option("--context", options.context);
  app.add_option("--batch", options.batch);
  app.add_option("--temperature", options.temperature);
  app.add_option("--seed", options.seed);
  app.add_option("--draft", options.draft, "Draft model; without: text lookup");
  app.add_option("--rounds", options.rounds);
  app.add_option("--precision", options.precision);
  app.add_option("--tokenizer", options.tokenizer, "GGUF file whose vocabulary cuts the texts into tokens");
  CLI11_PARSE(app, argc, argv);
  const auto done = quern::run(options);
  if (!done) std::fprintf(stderr, "speculation_bench: %s\n", done.error().message.c_str());
  return done ? *done : 2;
}
