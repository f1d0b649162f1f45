#include "infer/engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <limits>
#include <utility>

#include "infer/engine_room.hpp"
#include "infer/generator.hpp"

namespace quern {

namespace {

using Clock = std::chrono::steady_clock;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

/// End tokens are never drawn where they are to be ignored.
SamplerConfig sampler_config(const Request& request, std::int64_t vocab) {
  SamplerConfig config = request.sampler;
  if (!request.stop.ignore_end_tokens) return config;
  for (const std::int32_t token : request.stop.end_tokens) {
    if (token >= 0 && token < vocab) config.logit_bias.push_back({token, -kInfinity});
  }
  return config;
}

}  // namespace

/// A request from its submission to its end.
struct Engine::Live {
  Live(Request&& asked, const Tokenizer* tokenizer)
      : request(std::move(asked)), filter(tokenizer, request.stop, request.prompt.back()) {}

  RequestId id = 0;
  Request request;
  StopFilter filter;
  std::unique_ptr<Sampler> own_sampler;
  Sampler* sampler = nullptr;
  internal::SequenceText text;
  std::vector<std::int32_t> step;  // the last token of the text and what is proposed after it; empty: nothing is
  RequestTimings timings;
  Clock::time_point submitted = Clock::now();
  bool admitted = false;
};

Engine::Engine(Decoder& decoder, const Tokenizer* tokenizer, const EngineOptions& options)
    : decoder_(decoder),
      tokenizer_(tokenizer),
      options_(options),
      room_(std::make_unique<internal::EngineRoom>(decoder.cache(), options.cache_tokens, options.kept_sequences,
                                                   options.share_prefixes)),
      workspace_(std::make_shared<SamplerCandidates>(decoder.weights().config.vocab)) {
  const Decoder::Limits& limits = decoder.limits();
  SchedulerLimits scheduler;
  scheduler.batch_tokens = options.batch_tokens > 0 ? options.batch_tokens : limits.batch_tokens;
  const std::int64_t sequences = options.sequences > 0 ? options.sequences : limits.sequences;
  scheduler.sequences = std::min({sequences, scheduler.batch_tokens, limits.logit_rows});
  scheduler.prefill_tokens = options.prefill_tokens;
  scheduler.longest_turn = options.longest_turn;
  scheduler_ = std::make_unique<Scheduler>(scheduler, *room_);
  vocab_ = decoder.weights().config.vocab;
  if (options.vocab > 0) {
    vocab_ = options.vocab;
  } else if (tokenizer != nullptr) {
    vocab_ = std::min(vocab_, drawn_vocab(*tokenizer));
  }
  context_tokens_ = std::min(limits.context_tokens, room_->capacity_tokens());
  if (options.speculation.source != DraftSource::none) {
    const std::int64_t rows = std::min(scheduler.batch_tokens, limits.logit_rows);
    speculation_ = std::make_unique<internal::Speculation>(options.speculation, rows, vocab_, context_tokens_);
  }
  batch_.reserve(static_cast<std::size_t>(scheduler.sequences));
}

Engine::~Engine() {
  for (const auto& [id, live] : live_) room_->close(id);
  room_->forget_kept();
}

Result<std::unique_ptr<Engine>> Engine::create(Decoder& decoder, const Tokenizer* tokenizer, const EngineOptions& options) {
  const Decoder::Limits& limits = decoder.limits();
  if (limits.all_logits) return bad_input("engine: the decoder must be made without all_logits");
  const auto check = [](std::string_view name, std::int64_t found, std::int64_t most) -> Result<void> {
    if (found >= 0 && found <= most) return {};
    return bad_input(fmt::format("engine: {} must be from 0 to {}, found {}", name, most, found));
  };
  constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
  for (const auto& checked :
       {check("batch_tokens", options.batch_tokens, limits.batch_tokens),
        check("sequences", options.sequences, limits.sequences), check("cache_tokens", options.cache_tokens, kAny / 2),
        check("prefill_tokens", options.prefill_tokens, kAny), check("longest_turn", options.longest_turn, kAny),
        check("vocab", options.vocab, decoder.weights().config.vocab),
        check("kept_sequences", options.kept_sequences, limits.sequences)}) {
    if (!checked) return tl::make_unexpected(checked.error());
  }
  const SpeculationOptions& speculation = options.speculation;
  if (auto checked = check("speculation.tokens", speculation.tokens, kExactRows - 1); !checked) {
    return tl::make_unexpected(checked.error());
  }
  if (speculation.source == DraftSource::model) {
    if (speculation.draft == nullptr) return bad_input("engine: speculation by a model needs a draft model's decoder");
    if (speculation.draft == &decoder) return bad_input("engine: the draft model needs a decoder of its own");
    if (speculation.draft->limits().all_logits)
      return bad_input("engine: the draft decoder must be made without all_logits");
  }
  auto engine = std::unique_ptr<Engine>(new Engine(decoder, tokenizer, options));
  if (engine->context_tokens_ < 1) return no_memory("engine: the decoder's cache has no free page");
  return engine;
}

Result<void> Engine::check(const Request& request) const {
  const std::int64_t vocab = decoder_.weights().config.vocab;
  if (request.prompt.empty()) return bad_input("engine: the prompt has no tokens");
  for (const std::int32_t token : request.prompt) {
    if (token < 0 || token >= vocab) {
      return bad_input(fmt::format("engine: token {} of the prompt is outside the vocabulary of {}", token, vocab));
    }
  }
  const std::int64_t tokens = std::ssize(request.prompt);
  if (request.when_full == FullContext::stop && tokens > context_tokens_) {
    return bad_input(fmt::format("engine: the prompt has {} tokens, the context has room for {}", tokens, context_tokens_));
  }
  if (request.keep_tokens < 0 || (request.keep_tokens > 0 && request.keep_tokens > context_tokens_ - 2)) {
    return bad_input(fmt::format("engine: keep_tokens must be from 0 to {}, found {}",
                                 std::max<std::int64_t>(0, context_tokens_ - 2), request.keep_tokens));
  }
  if (request.top_log_probabilities && (*request.top_log_probabilities < 0 || *request.top_log_probabilities > vocab_)) {
    return bad_input(
        fmt::format("engine: top_log_probabilities must be from 0 to {}, found {}", vocab_, *request.top_log_probabilities));
  }
  if (auto valid = validate(request.stop); !valid) return valid;
  if (!request.stop.strings.empty() && tokenizer_ == nullptr) {
    return bad_input("engine: stop strings need a tokenizer");
  }
  return {};
}

Result<RequestId> Engine::submit(Request request) {
  if (auto valid = validate(request.sampler, vocab_); !valid) {
    return tl::make_unexpected(valid.error());
  }
  return enqueue(std::move(request), nullptr);
}

Result<RequestId> Engine::submit(Request request, Sampler& sampler) { return enqueue(std::move(request), &sampler); }

Result<RequestId> Engine::enqueue(Request&& request, Sampler* sampler) {
  if (auto valid = check(request); !valid) return tl::make_unexpected(valid.error());
  auto live = std::make_unique<Live>(std::move(request), tokenizer_);
  const std::vector<std::int32_t>& prompt = live->request.prompt;
  live->timings.prompt_tokens = std::ssize(prompt);
  live->sampler = sampler;
  if (sampler == nullptr) {
    live->own_sampler = std::make_unique<Sampler>(vocab_, sampler_config(live->request, vocab_), workspace_);
    live->sampler = live->own_sampler.get();
  }
  live->sampler->accept_prompt(prompt);

  // Of a prompt that is too long: the tokens to keep, and the last of the others.
  live->text.tokens.reserve(static_cast<std::size_t>(context_tokens_) + 1);
  live->text.tokens = prompt;
  if (const std::int64_t surplus = std::ssize(prompt) - context_tokens_; surplus > 0) {
    const auto begin = live->text.tokens.begin() + live->request.keep_tokens;
    live->text.tokens.erase(begin, begin + surplus);
  }
  const std::lock_guard lock(mutex_);
  live->id = next_id_++;
  const RequestId id = live->id;
  inbox_.push_back(std::move(live));
  arrived_.notify_all();
  return id;
}

void Engine::cancel(RequestId request) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(request);
  arrived_.notify_all();
}

bool Engine::idle() const {
  const std::lock_guard lock(mutex_);
  return inbox_.empty() && live_.empty();
}

bool Engine::wait(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return arrived_.wait_for(lock, timeout, [&] { return busy_ || !inbox_.empty() || !cancelled_.empty(); });
}

void Engine::forget_kept_sequences() { room_->forget_kept(); }

std::span<const EngineEvent> Engine::step() {
  events_.clear();
  take_inbox();
  if (!live_.empty()) compute();
  totals_.preemptions = scheduler_->preemptions();
  const std::lock_guard lock(mutex_);
  busy_ = !live_.empty();
  return events_;
}

void Engine::take_inbox() {
  std::vector<std::unique_ptr<Live>> arrived;
  std::vector<RequestId> cancelled;
  {
    const std::lock_guard lock(mutex_);
    arrived.swap(inbox_);
    cancelled.swap(cancelled_);
  }
  for (auto& live : arrived) {
    const RequestId id = live->id;
    room_->add(id, live->text);
    scheduler_->add(id, std::ssize(live->text.tokens));
    live_[id] = std::move(live);
  }
  for (const RequestId id : cancelled) {
    const auto found = live_.find(id);
    if (found != live_.end()) finish(*found->second, {.text = found->second->filter.finish()}, StopReason::interrupted);
  }
}

void Engine::compute() {
  const Clock::time_point start = Clock::now();
  propose();
  while (true) {
    const auto plan = scheduler_->plan();
    if (plan.empty()) {
      const auto first = scheduler_->first();
      if (!first) return;
      fail(*first, {ErrorCode::no_memory, fmt::format("engine: the KV cache has no room for request {}", *first)});
      continue;
    }
    plan_.assign(plan.begin(), plan.end());
    const Clock::time_point forward_start = Clock::now();
    const Result<void> done = forward(plan_);
    if (done) {
      forward_seconds_ = seconds_between(forward_start, Clock::now());
      count(plan_, forward_seconds_);
      break;
    }
    // Sharing can make a sequence need a page more than the plan counted; the decoder has changed nothing then. The next
    // plan has no proposals: they are not worth a preemption.
    const bool drafted = std::any_of(plan_.begin(), plan_.end(), [](const auto& part) { return part.drafted > 0; });
    if (done.error().code == ErrorCode::no_memory && (drafted || room_->reclaim(0) || scheduler_->make_room())) continue;
    for (const ScheduledTokens& part : plan_) fail(part.request, done.error());
    return;
  }
  scheduler_->computed();
  draw(plan_);
  const bool prefill = std::any_of(plan_.begin(), plan_.end(), [](const auto& part) { return !part.is_decode; });
  (prefill ? totals_.prefill_seconds : totals_.decode_seconds) += seconds_between(start, Clock::now());
}

void Engine::propose() {
  draft_seconds_ = 0.0;
  if (speculation_ == nullptr || !scheduler_->only_decodes()) return;
  texts_.clear();
  for (const auto& [id, live] : live_) {
    if (!live->text.sequence) continue;
    const std::int64_t tokens = std::ssize(live->text.tokens);
    // Beyond the context or the limit of tokens no proposal is of use; one token is drawn in any case.
    const std::int64_t most = std::min(context_tokens_ - tokens, live->request.stop.max_tokens - live->filter.tokens() - 1);
    texts_.push_back({.request = id,
                      .tokens = live->text.tokens,
                      .most = std::max<std::int64_t>(0, most),
                      .draws = live->sampler->position(),
                      .sampler = live->own_sampler != nullptr ? &live->request.sampler : nullptr});
  }
  const internal::Speculation::Proposals& proposals = speculation_->propose(texts_);
  draft_seconds_ = proposals.draft_seconds;
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    Live& live = *live_.at(texts_[i].request);
    live.timings.prefill_seconds += proposals.begin_seconds;
    live.timings.decode_seconds += proposals.draft_seconds;
    live.timings.draft_seconds += proposals.draft_seconds;
    live.step.assign(1, live.text.tokens.back());
    for (const DraftToken& proposed : proposals.tokens[i]) live.step.push_back(proposed.token);
    scheduler_->offer(live.id, std::ssize(live.step) - 1);
  }
}

Result<void> Engine::forward(std::span<const ScheduledTokens> plan) {
  batch_.clear();
  for (const ScheduledTokens& part : plan) {
    const Live& live = *live_.at(part.request);
    const internal::SequenceText& text = live.text;
    assert(decoder_.cache().length(*text.sequence) == part.first && "scheduler and cache agree");
    const auto first = static_cast<std::size_t>(part.first), count = static_cast<std::size_t>(part.count);
    SequenceTokens entry;
    entry.sequence = *text.sequence;
    if (part.drafted > 0) {
      entry.tokens = std::span(live.step).first(count);
      entry.logits = LogitRows::all;
      entry.drafts = true;
    } else {
      entry.tokens = std::span(text.tokens).subspan(first, count);
      entry.logits = part.is_last ? LogitRows::last : LogitRows::none;
    }
    batch_.push_back(entry);
  }
  return decoder_.forward(batch_);
}

void Engine::count(std::span<const ScheduledTokens> plan, double forward_seconds) {
  ++totals_.steps;
  for (const ScheduledTokens& part : plan) {
    Live& live = *live_.at(part.request);
    if (!live.admitted) {
      live.admitted = true;
      live.timings.queue_seconds = seconds_between(live.submitted, Clock::now()) - forward_seconds;
      live.timings.shared_tokens = part.first;
    }
    if (part.is_decode) {  // its tokens count when they are drawn
      ++live.timings.decode_steps;
      live.timings.decode_seconds += forward_seconds;
      live.timings.drafted_tokens += part.drafted;
      totals_.drafted_tokens += part.drafted;
    } else {
      live.timings.prefill_tokens += part.count;
      live.timings.prefill_seconds += forward_seconds;
      totals_.prefill_tokens += part.count;
    }
  }
}

void Engine::draw(std::span<const ScheduledTokens> plan) {
  std::int64_t row = 0, rows = 0, drafted = 0, drawn = 0;
  for (const ScheduledTokens& part : plan) {
    rows += part.count;
    drafted += part.drafted;
    if (!part.is_last) continue;
    drawn += draw_part(part, row);
    row += 1 + part.drafted;
  }
  const bool all_decode = std::all_of(plan.begin(), plan.end(), [](const ScheduledTokens& part) { return part.is_decode; });
  if (speculation_ != nullptr && all_decode) {
    speculation_->observe(std::ssize(plan), rows, drafted, drawn, forward_seconds_, draft_seconds_);
  }
}

std::int64_t Engine::draw_part(const ScheduledTokens& part, std::int64_t row) {
  Live& live = *live_.at(part.request);
  std::int64_t drawn = 0;
  while (true) {
    const bool right_so_far = drawn > 0;
    if (part.is_decode) {
      ++live.timings.decode_tokens;
      ++totals_.decode_tokens;
    }
    if (right_so_far) {
      scheduler_->draft_was_right(live.id);
      ++live.timings.accepted_tokens;
      ++totals_.accepted_tokens;
    }
    const bool goes_on = draw_one(live, decoder_.logits(row + drawn), part.is_decode);
    ++drawn;
    if (!goes_on) return drawn;
    if (drawn > part.drafted || live.text.tokens.back() != live.step[static_cast<std::size_t>(drawn)]) break;
  }
  // All that is in the cache is of the text: its last token is computed next.
  if (part.drafted == 0) return drawn;
  if (auto cut = decoder_.cache().truncate(*live.text.sequence, std::ssize(live.text.tokens) - 1); !cut) {
    fail(live.id, cut.error());
  }
  return drawn;
}

bool Engine::draw_one(Live& live, std::span<const float> logits, bool is_decode) {
  const Clock::time_point start = Clock::now();
  logits = logits.first(static_cast<std::size_t>(vocab_));
  if (std::none_of(logits.begin(), logits.end(), [](float logit) { return logit > -kInfinity; })) {
    return fail(live.id, {ErrorCode::bad_input, fmt::format("engine: none of the model's {} logits is a number: its weights "
                                                            "are damaged, or they are not for this architecture",
                                                            logits.size())});
  }
  const std::int32_t token = live.sampler->sample(logits);
  if (speculation_ != nullptr) speculation_->append(live.id, token);
  EngineEvent event{.request = live.id};
  if (live.request.top_log_probabilities) {
    event.log_probabilities = log_probabilities(logits, token, *live.request.top_log_probabilities);
  }
  StopFilter::Step step = live.filter.push(token);
  event.text = std::move(step.text);
  (step.is_end_token ? event.end_token : event.token) = token;
  const Clock::time_point end = Clock::now();
  (is_decode ? live.timings.decode_seconds : live.timings.prefill_seconds) += seconds_between(start, end);
  if (live.timings.first_token_seconds == 0.0) live.timings.first_token_seconds = seconds_between(live.submitted, end);
  if (step.stop) return finish(live, std::move(event), *step.stop);

  live.text.tokens.push_back(token);
  if (std::ssize(live.text.tokens) <= context_tokens_) {
    scheduler_->drew(live.id);
  } else if (live.request.when_full == FullContext::shift) {
    shift(live);
    events_.push_back(std::move(event));
    return false;
  } else {
    event.text += live.filter.finish();
    return finish(live, std::move(event), StopReason::context_full);
  }
  events_.push_back(std::move(event));
  return true;
}

void Engine::shift(Live& live) {
  std::vector<std::int32_t>& tokens = live.text.tokens;
  const std::int64_t keep = std::min(live.request.keep_tokens, std::ssize(live.request.prompt));
  const std::int64_t newer = std::max<std::int64_t>(1, (context_tokens_ - keep) / 2);
  tokens.erase(tokens.begin() + keep, tokens.end() - newer);
  KvCache& cache = decoder_.cache();
  std::int64_t cached = keep;
  if (!cache.truncate(*live.text.sequence, keep)) {
    cached = 0;  // windowed layers no longer have the beginning
    static_cast<void>(cache.truncate(*live.text.sequence, 0));
  }
  scheduler_->replaced(live.id, std::ssize(tokens), cached);
}

bool Engine::finish(Live& live, EngineEvent event, StopReason reason) {
  const RequestId id = live.id;
  event.request = id;
  event.finished = reason;
  live.timings.tokens = live.filter.tokens();
  live.timings.total_seconds = seconds_between(live.submitted, Clock::now());
  event.timings = live.timings;
  events_.push_back(std::move(event));
  totals_.shared_tokens += live.timings.shared_tokens;
  if (live.text.sequence) {  // proposals that were not reached
    static_cast<void>(decoder_.cache().truncate(*live.text.sequence, std::ssize(live.text.tokens)));
  }
  if (speculation_ != nullptr) speculation_->forget(id);
  ++totals_.finished_requests;
  room_->finish(id);
  scheduler_->remove(id);
  room_->forget(id);
  live_.erase(id);
  return false;
}

bool Engine::fail(RequestId request, Error error) {
  Live& live = *live_.at(request);
  return finish(live, {.text = live.filter.finish(), .error = std::move(error)}, StopReason::failed);
}

}  // namespace quern
