// Attention over a KV view, forward and backward, in blocks with online softmax: T x T scores never exist in memory.
//
// Milakov & Gimelshein 2018 (online softmax), Dao 2023 (FlashAttention-2: blocks, log-sum-exp kept for the backward pass).
// Key blocks have a fixed length counted from position 0 of the sequence, never from a chunk's or window's start, and a
// query row visits them in that order. So a row's bits do not depend on threads, on which queries share its call, or on
// whether keys come from a training batch or a cache's pages.
#pragma once

#include <cstdint>
#include <span>

#include "math/attention_kernels.hpp"
#include "math/exec.hpp"

namespace quern {

/// Scratch per thread for these shapes. max_length: the longest sequence of an attention_backward(); 0 where there is none
/// (attention_forward() needs the same at any length).
[[nodiscard]] std::size_t attention_scratch_bytes(const Backend& backend, const AttentionShape& shape, ElementType type,
                                                  std::int64_t max_length);

/// out = softmax(mask(scale * q k^T)) v for every sequence and head. T is float or bf16. KV views hold any format of a KV
/// cache (math/kv_rows.hpp); keys and values are read as f32 and, where T is bf16, rounded to bf16.
/// q, out: [rows, heads, head_dim] with row strides; lse (nullable) f32 [rows, heads] receives log-sum-exp of the scaled
/// (soft-capped) scores, the sink included. Dropout, where asked for, hits probabilities: column = key position, row =
/// (dropout.first_row + batch row) * heads + head. SPMD over (sequence, KV head, block of queries).
template <class T>
void attention_forward(Exec& exec, const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                       const AttentionRows<const T>& q, const AttentionRows<T>& out, float* lse, const DropoutMask& dropout);

/// Gradients: dq [rows, heads, head_dim], dk and dv [rows, kv_heads, head_dim] (overwritten), from dout, given what
/// attention_forward read and wrote. KV views hold T. Key/value rows of a sequence are rows first_row .. first_row + rows -
/// 1 of dk and dv (training sequences start at position 0). SPMD over (sequence, KV head): each task owns its dk and dv, so
/// no sums cross threads.
template <class T>
void attention_backward(Exec& exec, const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                        const AttentionRows<const T>& q, const AttentionRows<const T>& out,
                        const AttentionRows<const T>& dout, const float* lse, const AttentionRows<T>& dq,
                        const AttentionRows<T>& dk, const AttentionRows<T>& dv, const DropoutMask& dropout);

}  // namespace quern
