#include "infer/engine_room.hpp"

#include <algorithm>
#include <utility>

namespace quern::internal {

namespace {

/// Tokens at the beginning that both have, at most `most`.
std::int64_t common_prefix(const std::vector<std::int32_t>& a, const std::vector<std::int32_t>& b, std::int64_t most) {
  const std::int64_t length = std::min({std::ssize(a), std::ssize(b), most});
  return std::mismatch(a.begin(), a.begin() + length, b.begin()).first - a.begin();
}

std::int64_t whole_pages(std::int64_t tokens) { return tokens / kPageTokens * kPageTokens; }

}  // namespace

EngineRoom::EngineRoom(KvCache& cache, std::int64_t cache_tokens, std::int64_t kept_sequences, bool share_prefixes)
    : cache_(cache),
      capacity_tokens_(cache.free_tokens()),
      kept_sequences_(kept_sequences),
      share_prefixes_(share_prefixes) {
  if (cache_tokens <= 0) return;
  const std::int64_t limit = std::min(capacity_tokens_, (cache_tokens + kPageTokens - 1) / kPageTokens * kPageTokens);
  withheld_tokens_ = capacity_tokens_ - limit;
  capacity_tokens_ = limit;
}

EngineRoom::Source EngineRoom::best_source(RequestId request) const {
  const std::vector<std::int32_t>& tokens = texts_.at(request)->tokens;
  const std::int64_t most = std::ssize(tokens) - 1;  // the last token's logits are wanted
  Source best;
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    const KvCache::SequenceId sequence = *kept_[i].sequence;
    const std::int64_t common = common_prefix(kept_[i].tokens, tokens, most);
    const bool can_cut = common == cache_.length(sequence) || common >= cache_.earliest_cut(sequence);
    if (common > best.tokens && can_cut) best = {.kept = i, .tokens = common};
  }
  if (!share_prefixes_) return best;
  for (const auto& [other, text] : texts_) {
    if (other == request || !text->sequence) continue;
    const std::int64_t cached = cache_.length(*text->sequence);
    const std::int64_t common = whole_pages(common_prefix(text->tokens, tokens, std::min(most, cached)));
    const bool can_cut = common >= cache_.earliest_cut(*text->sequence);
    if (common > 0 && common >= best.tokens && can_cut) best = {.running = text, .tokens = common};
  }
  return best;
}

CacheRoom::Shareable EngineRoom::shareable(RequestId request) const {
  Shareable result;
  result.now = best_source(request).tokens;
  result.soon = result.now;
  if (!share_prefixes_) return result;
  const std::vector<std::int32_t>& tokens = texts_.at(request)->tokens;
  for (const auto& [other, text] : texts_) {
    if (other == request || !text->sequence || cache_.length(*text->sequence) + 1 >= std::ssize(text->tokens)) continue;
    // Only while windowed layers of the other still have its beginning, else waiting would be in vain.
    if (cache_.earliest_cut(*text->sequence) > 0) continue;
    result.soon = std::max(result.soon, whole_pages(common_prefix(text->tokens, tokens, std::ssize(tokens) - 1)));
  }
  return result;
}

Result<std::int64_t> EngineRoom::open(RequestId request) {
  SequenceText& text = *texts_.at(request);
  const Source source = best_source(request);
  if (source.tokens > 0 && source.running == nullptr) {
    text.sequence = kept_[source.kept].sequence;
    kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(source.kept));
    if (auto cut = cache_.truncate(*text.sequence, source.tokens); !cut) return tl::make_unexpected(cut.error());
    return source.tokens;
  }
  const auto open_new = [&] {
    return source.tokens > 0 ? cache_.fork(*source.running->sequence, source.tokens) : cache_.add_sequence();
  };
  auto opened = open_new();
  while (!opened && reclaim(0)) opened = open_new();
  if (!opened) return tl::make_unexpected(opened.error());
  text.sequence = *opened;
  return source.tokens;
}

void EngineRoom::close(RequestId request) {
  SequenceText& text = *texts_.at(request);
  if (!text.sequence) return;
  cache_.remove_sequence(*text.sequence);
  text.sequence.reset();
}

void EngineRoom::finish(RequestId request) {
  SequenceText& text = *texts_.at(request);
  if (!text.sequence) return;
  const std::int64_t cached = cache_.length(*text.sequence);
  if (kept_sequences_ == 0 || cached == 0) return close(request);
  while (std::ssize(kept_) >= kept_sequences_) reclaim(0);
  kept_.push_back(std::move(text));
  kept_.back().tokens.resize(static_cast<std::size_t>(cached));
  text.sequence.reset();
}

bool EngineRoom::reclaim(RequestId spare) {
  std::size_t index = 0;
  if (spare != 0) {
    const Source source = best_source(spare);
    if (source.running == nullptr && source.tokens > 0 && source.kept == 0) index = 1;
  }
  if (index >= kept_.size()) return false;
  cache_.remove_sequence(*kept_[index].sequence);
  kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(index));
  return true;
}

void EngineRoom::forget_kept() {
  while (reclaim(0)) {
  }
}

}  // namespace quern::internal
