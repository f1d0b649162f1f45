// Forward passes over the KV cache: prefill in chunks, decode of one or many sequences, on the kernels that training uses.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "math/exec.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/kv_cache.hpp"
#include "model/weights.hpp"

namespace quern {

/// Tokens that a sequence gets next, at the positions after those in the cache.
struct SequenceTokens {
  KvCache::SequenceId sequence = 0;
  std::span<const std::int32_t> tokens;
};

/// Runs a model over batches of tokens of many sequences. Positions, pages and rows are planned at creation; forward()
/// allocates nothing. Activations and cache have the weights' compute type.
class Decoder {
 public:
  virtual ~Decoder() = default;

  struct Limits {
    std::int64_t batch_tokens = 256;  ///< tokens of one forward() at most; longer prompts are cut into chunks by the caller
    std::int64_t context_tokens = 256;  ///< longest sequence; the cache has room for `sequences` of them
    std::int64_t sequences = 1;
    bool all_logits = false;  ///< logits of every token instead of each sequence's last
  };

  /// `weights` and `team` must outlive the decoder. Errors: no_memory; bad_input where context_tokens exceeds the learned
  /// position table.
  [[nodiscard]] static Result<std::unique_ptr<Decoder>> create(const Backend& backend, const ModelWeights& weights,
                                                               ThreadTeam& team, const Limits& limits);

  [[nodiscard]] virtual KvCache& cache() = 0;
  [[nodiscard]] virtual const Limits& limits() const = 0;
  [[nodiscard]] virtual const ModelWeights& weights() const = 0;

  /// Appends the tokens of each entry (at least one each, at most limits().batch_tokens in all, a sequence at most once) to
  /// its sequence and computes logits. On an error (no room, token out of range) the cache is as it was.
  [[nodiscard]] virtual Result<void> forward(std::span<const SequenceTokens> batch) = 0;

  /// Logits of the last forward(): [vocab] of entry i's last token, or with all_logits of batch row i. Valid until the next.
  [[nodiscard]] virtual std::span<const float> logits(std::int64_t i) const = 0;
};

}  // namespace quern
