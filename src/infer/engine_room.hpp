// The engine's sequences in the KV cache: those of requests, and those of finished requests that stay until room is needed.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "infer/request.hpp"
#include "infer/scheduler.hpp"
#include "infer/stop_conditions.hpp"
#include "model/kv_cache.hpp"

namespace quern::internal {

/// A request's text and its place in the cache.
struct SequenceText {
  std::vector<std::int32_t> tokens;  ///< what the sequence holds or is to hold
  std::optional<KvCache::SequenceId> sequence{};
};

/// Answers the scheduler with what the cache has. Shares prefixes: from a running request by forking its sequence at whole
/// pages, from a kept one by taking its sequence over and cutting it.
class EngineRoom final : public CacheRoom {
 public:
  /// `cache_tokens`: of the cache at most; 0: what is free now. `text` gives the text of a request that is live.
  EngineRoom(KvCache& cache, std::int64_t cache_tokens, std::int64_t kept_sequences, bool share_prefixes);

  /// A text that will be opened; it must stay where it is until it is forgotten.
  void add(RequestId request, SequenceText& text) { texts_[request] = &text; }
  void forget(RequestId request) { texts_.erase(request); }
  /// The request is finished: its sequence is kept, or given back.
  void finish(RequestId request);
  void forget_kept();

  /// Tokens that one sequence can have.
  [[nodiscard]] std::int64_t capacity_tokens() const { return capacity_tokens_; }

  [[nodiscard]] std::int64_t page_tokens() const override { return kPageTokens; }
  [[nodiscard]] std::int64_t free_tokens() const override { return cache_.free_tokens() - withheld_tokens_; }
  bool reclaim(RequestId spare) override;
  [[nodiscard]] Shareable shareable(RequestId request) const override;
  [[nodiscard]] Result<std::int64_t> open(RequestId request) override;
  void close(RequestId request) override;

 private:
  /// Where a text's beginning is: in a running request's sequence or in a kept one.
  struct Source {
    const SequenceText* running = nullptr;
    std::size_t kept = 0;  // index, where running is null and tokens > 0
    std::int64_t tokens = 0;
  };
  [[nodiscard]] Source best_source(RequestId request) const;

  KvCache& cache_;
  std::int64_t capacity_tokens_ = 0;
  std::int64_t withheld_tokens_ = 0;  // free in the cache, but above the limit
  std::int64_t kept_sequences_ = 0;
  bool share_prefixes_ = true;
  std::map<RequestId, SequenceText*> texts_;
  std::vector<SequenceText> kept_;  // the oldest first
};

}  // namespace quern::internal
