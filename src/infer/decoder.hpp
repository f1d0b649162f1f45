// Forward passes over the KV cache: prefill in chunks, decode of one or many sequences, on the kernels that training uses.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "math/exec.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/kv_cache.hpp"
#include "model/weights.hpp"

namespace quern {

class ActivationObserver;
class Profiler;

/// Which tokens of an entry get logits.
enum class LogitRows : std::uint8_t { none, last, all };

/// Tokens that a sequence gets next, at the positions after those in the cache.
struct SequenceTokens {
  KvCache::SequenceId sequence = 0;
  std::span<const std::int32_t> tokens;
  LogitRows logits = LogitRows::last;
  bool drafts = false;  ///< all but the first are proposals: a profiler counts this as decoding
};

/// Runs a model over batches of tokens of many sequences. Positions, pages and rows are planned at creation; forward()
/// allocates nothing (but see Limits::arena). Activations have the weights' compute type.
class Decoder {
 public:
  virtual ~Decoder() = default;

  struct Limits {
    std::int64_t batch_tokens = 256;  ///< tokens of one forward() at most; longer prompts are cut into chunks by the caller
    std::int64_t context_tokens = 256;     ///< longest sequence
    std::int64_t sequences = 1;            ///< alive at once
    std::int64_t cache_tokens = 0;         ///< room in the cache, shared by all sequences; 0: `sequences` of the longest
    std::optional<ElementType> kv_type{};  ///< of the cache: f32, f16, bf16, q8_0 or q4_0; none: the compute type
    std::int64_t logit_rows = 0;  ///< rows of logits that one forward() gives at most; 0: one a sequence, or a token
    bool all_logits = false;      ///< every entry's LogitRows counts as `all`
    /// false, for measuring: each working buffer is allocated for a forward() and freed by the next, which may answer
    /// no_memory.
    bool arena = true;
    Profiler* profiler = nullptr;            ///< told of each part of a forward pass; null: none
    ActivationObserver* observer = nullptr;  ///< told of what enters each matrix; null: none
  };

  /// `weights` and `team` must outlive the decoder. Errors: no_memory where cache and working memory exceed
  /// default_memory_limit() (process_memory.hpp) or the system refuses them; bad_input where context_tokens exceeds the
  /// learned position table.
  [[nodiscard]] static Result<std::unique_ptr<Decoder>> create(const Backend& backend, const ModelWeights& weights,
                                                               ThreadTeam& team, const Limits& limits);

  [[nodiscard]] virtual KvCache& cache() = 0;
  [[nodiscard]] virtual const Limits& limits() const = 0;
  [[nodiscard]] virtual const ModelWeights& weights() const = 0;

  /// Appends the tokens of each entry (at least one each, at most limits().batch_tokens in all, a sequence at most once) to
  /// its sequence and computes logits. On an error (no room: no_memory; token out of range) the cache is as it was.
  [[nodiscard]] virtual Result<void> forward(std::span<const SequenceTokens> batch) = 0;

  /// Logits of the last forward(): row i [vocab] of those asked for, in the batch's order. Valid until the next.
  [[nodiscard]] virtual std::span<const float> logits(std::int64_t i) const = 0;
};

}  // namespace quern
