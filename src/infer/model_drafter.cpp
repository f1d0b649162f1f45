#include "infer/model_drafter.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "infer/generator.hpp"

namespace quern {

namespace {

using Clock = std::chrono::steady_clock;

// What is taken up of a text that the draft model has lost.
constexpr std::int64_t kTakenUp = 256;
// What a proposal took is doubted with each token drawn without one: perhaps it was disturbed. Half in 140 tokens.
constexpr double kDoubt = 0.995;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Other processes make things slower, never faster: follows what is faster more readily.
void follow(double& average, double value) {
  average = average == 0.0 ? value : average + (value < average ? 0.5 : 0.1) * (value - average);
}

/// Of a token, under the raw logits.
double probability(std::span<const float> logits, std::int32_t token) {
  const float largest = logits[static_cast<std::size_t>(greedy_token(logits))];
  float sum = 0.0F;
  for (const float logit : logits) sum += logit >= largest ? 1.0F : std::exp(logit - largest);  // NaN adds NaN
  const float p = std::exp(logits[static_cast<std::size_t>(token)] - largest) / sum;
  return p >= 0.0F && p <= 1.0F ? static_cast<double>(p) : 0.0;
}

}  // namespace

Result<void> check_draft_vocabulary(const Tokenizer& model, const Tokenizer& draft) {
  const std::int64_t count = drawn_vocab(model), found = drawn_vocab(draft);
  if (count != found) {
    return bad_input(fmt::format("its vocabulary must be the model's: expected {} tokens, found {}", count, found));
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const auto token = static_cast<std::int32_t>(i);
    if (model.token_bytes(token) == draft.token_bytes(token)) continue;
    return bad_input(fmt::format("its vocabulary must be the model's: expected `{}` as token {}, found `{}`",
                                 model.token_bytes(token), i, draft.token_bytes(token)));
  }
  return {};
}

ModelDrafter::ModelDrafter(Decoder& draft, std::int64_t vocab, const std::optional<SamplerConfig>& sampler,
                           KvCache::SequenceId sequence)
    : decoder_(draft), vocab_(std::min(vocab, draft.weights().config.vocab)), sequence_(sequence) {
  if (sampler) {
    SamplerConfig config = *sampler;
    config.penalties = {};  // they depend on the tokens drawn before, which proposals are not
    std::erase_if(config.logit_bias, [&](const LogitBias& bias) { return bias.token >= vocab_; });
    sampler_ = std::make_unique<Sampler>(vocab_, config);
  }
  for (std::size_t i = 0; i < kKinds; ++i) {
    rates_[i] = HitRate((static_cast<double>(i) + 0.5) / static_cast<double>(kKinds));
  }
}

ModelDrafter::~ModelDrafter() { decoder_.cache().remove_sequence(sequence_); }

Result<std::unique_ptr<ModelDrafter>> ModelDrafter::create(Decoder& draft, std::int64_t vocab,
                                                           const std::optional<SamplerConfig>& sampler) {
  const auto sequence = draft.cache().add_sequence();
  if (!sequence) return tl::make_unexpected(sequence.error());
  return std::unique_ptr<ModelDrafter>(new ModelDrafter(draft, vocab, sampler, *sequence));
}

Result<void> ModelDrafter::forward(std::span<const std::int32_t> tokens, bool logits) {
  const SequenceTokens entry{.sequence = sequence_, .tokens = tokens, .logits = logits ? LogitRows::last : LogitRows::none};
  if (auto done = decoder_.forward(std::span(&entry, 1)); !done) return done;
  cached_.insert(cached_.end(), tokens.begin(), tokens.end());
  return {};
}

std::int64_t ModelDrafter::cached_of(std::span<const std::int32_t> text) const {
  if (std::ssize(text) <= first_) return 0;
  const auto rest = text.subspan(static_cast<std::size_t>(first_));
  return std::mismatch(cached_.begin(), cached_.end(), rest.begin(), rest.end()).first - cached_.begin();
}

Result<void> ModelDrafter::catch_up(std::span<const std::int32_t> text) {
  const auto cut = [&](std::int64_t length) {
    if (!decoder_.cache().truncate(sequence_, length)) {
      length = 0;  // windowed layers no longer have what comes before
      static_cast<void>(decoder_.cache().truncate(sequence_, 0));
    }
    cached_.resize(static_cast<std::size_t>(length));
  };
  cut(std::min(cached_of(text), std::ssize(text) - first_ - 1));
  const std::int64_t chunk = decoder_.limits().batch_tokens;
  for (std::int64_t at = first_ + std::ssize(cached_); at < std::ssize(text);) {
    const std::int64_t count = std::min(chunk, std::ssize(text) - at);
    const Clock::time_point start = Clock::now();
    const auto part = text.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(count));
    at += count;
    if (auto done = forward(part, at == std::ssize(text)); !done) return done;
    if (count >= 8) {
      follow(behind_seconds_, seconds_since(start) / static_cast<double>(count));
    } else if (count <= 2) {  // what was drawn last, and a proposal before it that was right
      follow(token_seconds_, seconds_since(start));
    }
  }
  return {};
}

Result<void> ModelDrafter::begin(std::span<const std::int32_t> text) {
  const std::int64_t room = decoder_.limits().context_tokens - 1;
  first_ = std::ssize(text) <= room ? 0 : std::ssize(text) - std::min(kTakenUp, (room + 1) / 2);
  return catch_up(text);
}

double ModelDrafter::seconds_behind(std::span<const std::int32_t> text) const {
  const std::int64_t missing = std::ssize(text) - first_ - cached_of(text) - 1;
  return missing < 8 ? 0.0 : static_cast<double>(std::min(missing, kTakenUp)) * behind_seconds_;
}

void ModelDrafter::append(std::int32_t token) {
  if (checked_ >= draft_.size()) {
    token_seconds_ *= kDoubt;
    return;
  }
  const bool hit = draft_[checked_].token == token;
  rates_[kinds_[checked_]].observe(hit);
  usual_.observe(hit);
  checked_ = hit ? checked_ + 1 : draft_.size();
}

Result<std::span<const DraftToken>> ModelDrafter::draft(std::span<const std::int32_t> text, std::int64_t most,
                                                        std::uint64_t draws, const GoOn& go_on) {
  draft_.clear();
  kinds_.clear();
  checked_ = 0;
  const std::int64_t context = decoder_.limits().context_tokens;
  most = std::min(most, context - 1);
  if (most < 1) return std::span<const DraftToken>(draft_);
  const std::int64_t missing = std::ssize(text) - first_ - cached_of(text);
  if (first_ >= std::ssize(text) || missing > kTakenUp || std::ssize(text) - first_ + most > context) {
    first_ = std::max<std::int64_t>(0, std::ssize(text) - std::min(kTakenUp, (context - most + 1) / 2));
  }
  if (auto ready = catch_up(text); !ready) return tl::make_unexpected(ready.error());
  if (sampler_ != nullptr) sampler_->seek(draws);
  while (true) {
    const Clock::time_point start = Clock::now();
    const auto logits = decoder_.logits(0).first(static_cast<std::size_t>(vocab_));
    const std::int32_t token = sampler_ != nullptr ? sampler_->sample(logits) : greedy_token(logits);
    const auto kind = static_cast<std::size_t>(probability(logits, token) * static_cast<double>(kKinds));
    kinds_.push_back(std::min(kind, kKinds - 1));
    draft_.push_back({.token = token, .chance = rates_[kinds_.back()].rate()});
    if (std::ssize(draft_) == most || !go_on(draft_)) break;
    if (auto done = forward(std::span(&draft_.back().token, 1), true); !done) return tl::make_unexpected(done.error());
    follow(token_seconds_, seconds_since(start));
  }
  return std::span<const DraftToken>(draft_);
}

}  // namespace quern
