// Attention's shapes, the KV view, and the table that each instruction set fills. Plain data only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/element_type.hpp"
#include "math/elementwise_kernels.hpp"

namespace quern {

/// Keys per block of the online softmax; a cache page holds a multiple of it.
inline constexpr std::int64_t kKeyBlock = 64;

/// Heads and scoring of one layer. Query head h reads KV head h / (heads / kv_heads) (Ainslie et al. 2023, GQA).
struct AttentionShape {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  float scale = 0.0F;            ///< multiplies q . k, usually 1/sqrt(head_dim)
  std::int64_t window = 0;       ///< keys with query - key >= window are hidden; 0: none
  float soft_cap = 0.0F;         ///< scores become cap * tanh(score / cap) before the mask; 0: none
  const float* sinks = nullptr;  ///< [heads] extra logits that take probability but have no value; null: none
};

/// Keys and values of one sequence in one layer: position p of KV head h is at
/// pages[p / page_tokens] + (p % page_tokens) * token_stride + h * head_stride (elements of `type`).
struct KvView {
  const void* const* key_pages = nullptr;
  const void* const* value_pages = nullptr;
  ElementType type = ElementType::f32;
  std::int64_t page_tokens = 0;   ///< multiple of kKeyBlock, or >= length when there is one page
  std::int64_t token_stride = 0;  ///< elements
  std::int64_t head_stride = 0;   ///< elements
  std::int64_t length = 0;        ///< positions 0 .. length-1 are present
};

/// Consecutive query rows of one sequence: rows first_row .. first_row+rows-1 of the batch are its positions
/// first_position .. ; position p sees keys 0 .. p (causal).
struct AttentionSequence {
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t first_position = 0;
  KvView kv;
};

/// [rows, heads, head_dim] inside a wider row-major buffer: head h of row r at data + r * row_stride + h * head_dim.
template <class T>
struct AttentionRows {
  T* data = nullptr;
  std::int64_t row_stride = 0;
};

}  // namespace quern
