// What running a model takes: bytes of weights, KV cache and working memory at a context length.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "math/element_type.hpp"
#include "model/model_config.hpp"

namespace quern {

/// Cache types that the figures cover.
inline constexpr std::array kReportedKvTypes{ElementType::f32, ElementType::f16, ElementType::q8_0};

/// Bytes that one sequence of `context_tokens` takes, prompts in pieces of `batch_tokens`.
struct RunMemory {
  std::int64_t context_tokens = 0;
  std::int64_t batch_tokens = 0;
  std::size_t weight_bytes = 0;
  /// Of the cache, by kReportedKvTypes, as KvCache reserves them (windowed layers keep their window and a batch); nothing
  /// where the model's heads are no whole blocks of the type or the bytes exceed the address space.
  std::array<std::optional<std::size_t>, kReportedKvTypes.size()> kv_bytes{};
  std::size_t working_bytes = 0;  ///< activations of a batch in f32 and one row of logits; threads' scratch not counted
  /// All three for a cache type.
  [[nodiscard]] std::optional<std::size_t> total_bytes(std::size_t kv_type) const;
};

/// `config` is valid (validate()), context_tokens and batch_tokens at least 1.
[[nodiscard]] RunMemory run_memory(const ModelConfig& config, std::size_t weight_bytes, std::int64_t context_tokens,
                                   std::int64_t batch_tokens = 256);

}  // namespace quern
