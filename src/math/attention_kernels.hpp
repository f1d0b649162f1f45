// Attention's shapes, the KV view, the tasks that kernels compute, and the table that each instruction set fills. Plain
// data only.
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

/// Keys and values of one sequence in one layer, as f32, f16, bf16, q8_0 or q4_0. Position p of KV head h starts at
/// byte key_offset of page p / page_tokens plus (p % page_tokens) * token_stride + h * head_stride elements of `type`;
/// values alike. In block types strides and head_dim are whole blocks (32 elements), which fixes their bytes.
/// Pages before the first visible key of every query may be missing (null): kernels do not touch them.
struct KvView {
  const void* const* key_pages = nullptr;
  const void* const* value_pages = nullptr;
  ElementType type = ElementType::f32;
  std::int64_t page_tokens = 0;   ///< multiple of kKeyBlock, or >= length when there is one page
  std::int64_t token_stride = 0;  ///< elements
  std::int64_t head_stride = 0;   ///< elements
  std::int64_t length = 0;        ///< positions 0 .. length-1 were written; those of missing pages are gone
  std::int64_t key_offset = 0;    ///< bytes from a key page's address to its first key
  std::int64_t value_offset = 0;  ///< bytes
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

/// Query rows times query heads per KV head that one forward task takes (at least one query). Large enough that packing a
/// block of keys costs little beside using it, small enough that two threads share one sequence of 512.
inline constexpr std::int64_t kAttentionTaskRows = 256;

/// The task that a thread likely computes after this one: its rows are fetched meanwhile. Nothing else depends on it.
struct AttentionTaskAhead {
  const AttentionSequence* sequence = nullptr;  ///< null: none
  std::int64_t kv_head = 0;
  std::int64_t first_query = 0;
};

/// What one call of a forward kernel computes: the query heads of one KV head, for query rows first_query ..
/// first_query + queries - 1 of one sequence. Data pointers are those of the whole batch's row 0 (elements of the kernel's
/// T).
struct AttentionForwardTask {
  const AttentionShape* shape = nullptr;
  const AttentionSequence* sequence = nullptr;
  const DropoutMask* dropout = nullptr;
  std::int64_t kv_head = 0;
  std::int64_t first_query = 0;
  std::int64_t queries = 0;
  const void* q = nullptr;
  std::int64_t q_stride = 0;
  void* out = nullptr;
  std::int64_t out_stride = 0;
  float* lse = nullptr;          ///< [batch rows, heads], or null
  std::byte* scratch = nullptr;  ///< attention_scratch_bytes, aligned to 64
  AttentionTaskAhead ahead;
};

/// What one call of a backward kernel computes: dk and dv of one KV head, dq of its query heads, for one sequence.
struct AttentionBackwardTask {
  const AttentionShape* shape = nullptr;
  const AttentionSequence* sequence = nullptr;
  const DropoutMask* dropout = nullptr;
  std::int64_t kv_head = 0;
  const void* q = nullptr;
  std::int64_t q_stride = 0;
  const void* out = nullptr;
  std::int64_t out_stride = 0;
  const void* dout = nullptr;
  std::int64_t dout_stride = 0;
  const float* lse = nullptr;
  void* dq = nullptr;
  std::int64_t dq_stride = 0;
  void* dk = nullptr;
  std::int64_t dk_stride = 0;
  void* dv = nullptr;
  std::int64_t dv_stride = 0;
  std::byte* scratch = nullptr;
  AttentionTaskAhead ahead;
};

struct AttentionKernels {
  const char* name;
  void (*forward_f32)(const AttentionForwardTask& task);
  void (*forward_bf16)(const AttentionForwardTask& task);
  void (*backward_f32)(const AttentionBackwardTask& task);
  void (*backward_bf16)(const AttentionBackwardTask& task);
};

/// Tables by instruction set; null where this build lacks the path. Only dispatch.cpp and tests call these.
const AttentionKernels* attention_kernels_portable();
const AttentionKernels* attention_kernels_avx2();
const AttentionKernels* attention_kernels_avx512();
const AttentionKernels* attention_kernels_avx512_vnni();
const AttentionKernels* attention_kernels_amx();

}  // namespace quern
