// Attention and its gradients in double precision, one query at a time, with the whole row of scores in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "math/attention_kernels.hpp"

namespace quern {

/// One sequence. Arrays are contiguous: q [rows, heads, head_dim], k and v [keys, kv_heads, head_dim].
struct ReferenceAttention {
  AttentionShape shape;
  DropoutMask dropout;
  std::int64_t rows = 0;
  std::int64_t first_position = 0;
  std::int64_t keys = 0;
  std::int64_t batch_row = 0;  ///< row of the batch that is row 0 here: numbers the dropout mask
  std::vector<double> q, k, v;
};

struct ReferenceAttentionOutput {
  std::vector<double> out;  ///< [rows, heads, head_dim]
  std::vector<double> lse;  ///< [rows, heads]
};

struct ReferenceAttentionGradients {
  std::vector<double> dq, dk, dv;
};

[[nodiscard]] ReferenceAttentionOutput reference_attention(const ReferenceAttention& problem);

/// Gradients of sum(out * dout).
[[nodiscard]] ReferenceAttentionGradients reference_attention_gradients(const ReferenceAttention& problem,
                                                                        const std::vector<double>& dout);

/// 65536 / (65536 - threshold) where element (row, col) of a dropout mask is kept, 0 where it is dropped.
[[nodiscard]] double reference_dropout_factor(const DropoutMask& mask, std::uint32_t row, std::uint32_t col);

/// What a row of `elements` (whole blocks) in a KV cache's format holds, from the formats' definitions.
[[nodiscard]] std::vector<double> reference_kv_row(ElementType type, const std::byte* row, std::int64_t elements);

}  // namespace quern
