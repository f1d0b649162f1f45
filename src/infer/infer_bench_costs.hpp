// What inference must at least compute and read, counted from a model's shapes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/element_type.hpp"
#include "model/weights.hpp"

namespace quern {

/// Keys that `tokens` tokens at positions first .. first + tokens - 1 see, summed over tokens and layers; windows count what
/// they show.
[[nodiscard]] double visible_keys(const ModelConfig& config, std::int64_t first, std::int64_t tokens);

/// Floating-point operations of `tokens` tokens from position `first` on, of which `logit_rows` get logits: two for each
/// element of a matrix that a token meets, four for each element of a visible key (scores, and values).
[[nodiscard]] double forward_flops(const ModelConfig& config, std::int64_t first, std::int64_t tokens,
                                   std::int64_t logit_rows);

/// Bytes of keys and values, stored as `type`, that decoding these tokens one by one reads.
[[nodiscard]] double kv_bytes_read(const ModelConfig& config, ElementType type, std::int64_t first, std::int64_t tokens);

/// Bytes of matrices that one step with a token of each of `sequences` reads. `bytes_per_token`: of one sequence. Every
/// expert is as likely as any other, so E experts of which each token takes k count as E (1 - (1 - k/E)^sequences).
[[nodiscard]] double step_weight_bytes(const ModelWeights& weights, std::size_t bytes_per_token, std::int64_t sequences);

}  // namespace quern
