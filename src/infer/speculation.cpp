#include "infer/speculation.hpp"

#include <algorithm>
#include <chrono>

#include "infer/model_drafter.hpp"
#include "infer/ngram_drafter.hpp"

namespace quern::internal {

namespace {

using Clock = std::chrono::steady_clock;

// What DraftControl may lose at first, in steps of one token. A draft model is there because somebody asked for it.
constexpr double kLookupStock = 0.5, kDraftModelStock = 2.0;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

Speculation::Speculation(const SpeculationOptions& options, std::int64_t rows, std::int64_t vocab,
                         std::int64_t context_tokens)
    : options_(options),
      vocab_(vocab),
      context_tokens_(context_tokens),
      control_(std::min(rows, kExactRows), options.source == DraftSource::model ? kDraftModelStock : kLookupStock) {}

Drafter* Speculation::drafter(const Text& text) {
  if (const auto found = drafters_.find(text.request); found != drafters_.end()) return found->second.get();
  std::unique_ptr<Drafter> made;
  if (options_.source == DraftSource::ngram) {
    made = std::make_unique<NgramDrafter>(context_tokens_);
  } else if (auto model = ModelDrafter::create(*options_.draft, vocab_,
                                               text.sampler != nullptr ? std::optional(*text.sampler) : std::nullopt)) {
    made = std::move(*model);
  } else {
    return nullptr;  // another request has the draft model's sequence
  }
  const Clock::time_point start = Clock::now();
  if (!made->begin(text.tokens)) made.reset();
  proposals_.begin_seconds += seconds_since(start);
  return (drafters_[text.request] = std::move(made)).get();
}

const Speculation::Proposals& Speculation::propose(std::span<const Text> texts) {
  proposals_.tokens.assign(texts.size(), {});
  proposals_.begin_seconds = proposals_.draft_seconds = 0.0;
  const bool by_model = options_.source == DraftSource::model;
  if (options_.source == DraftSource::none || (by_model && texts.size() != 1)) return proposals_;
  const std::int64_t room = std::max<std::int64_t>(0, control_.most_rows() - std::ssize(texts));
  const Clock::time_point start = Clock::now();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const Text& text = texts[i];
    std::int64_t most = std::min({text.most, options_.tokens, room});
    Drafter* const source = most > 0 ? drafter(text) : nullptr;
    if (source == nullptr) continue;
    if (by_model && options_.adaptive) most = control_.plan(*source, source->seconds_behind(text.tokens), most);
    if (most == 0) continue;
    auto drafted = source->draft(text.tokens, most, text.draws, [&](std::span<const DraftToken> so_far) {
      return !options_.adaptive || control_.go_on(*source, so_far, most);
    });
    if (!drafted) {
      drafters_[text.request].reset();
      continue;
    }
    proposals_.tokens[i] = *drafted;
  }
  if (!by_model) {
    taken_.resize(texts.size());
    if (options_.adaptive) {
      control_.choose(proposals_.tokens, taken_);
    } else {
      std::int64_t left = room;
      for (std::size_t i = 0; i < texts.size(); ++i) {
        left -= taken_[i] = std::min(left, std::ssize(proposals_.tokens[i]));
      }
    }
    for (std::size_t i = 0; i < texts.size(); ++i) {
      proposals_.tokens[i] = proposals_.tokens[i].first(static_cast<std::size_t>(taken_[i]));
    }
  }
  proposals_.draft_seconds = seconds_since(start) - proposals_.begin_seconds;
  return proposals_;
}

void Speculation::append(RequestId request, std::int32_t token) {
  const auto found = drafters_.find(request);
  if (found != drafters_.end() && found->second != nullptr) found->second->append(token);
}

}  // namespace quern::internal
