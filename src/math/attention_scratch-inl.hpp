// How attention kernels cut a thread's scratch memory. Internal linkage: the front sizes it, each instruction set cuts it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/attention_kernels.hpp"

namespace quern {
namespace {

/// Query rows ("virtual": query x head of the group) per block.
constexpr std::int64_t kRowBlock = 64;

/// head_dim as stored in packed tiles: whole steps of an AMX product (32 bf16).
constexpr std::int64_t padded_head(std::int64_t head_dim) { return (head_dim + 31) / 32 * 32; }

/// Hands out consecutive 64-byte aligned pieces; with a null base it only measures.
struct ScratchCutter {
  std::byte* base = nullptr;
  std::int64_t used = 0;

  template <class T>
  T* take(std::int64_t count) {
    std::byte* piece = base == nullptr ? nullptr : base + used;
    used += (count * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }
};

/// State of one block of virtual rows.
struct RowState {
  float* m;                 ///< running maximum (forward); lse (backward): both in powers of two
  float* l;                 ///< running sum (forward); rowsum(dO * O) (backward)
  std::int32_t* low;        ///< first visible key position
  std::int32_t* high;       ///< last visible key position; -1 in padding rows
  std::uint32_t* mask_row;  ///< row of the dropout mask
};

inline RowState take_rows(ScratchCutter& cut, std::int64_t rows) {
  return {cut.take<float>(rows), cut.take<float>(rows), cut.take<std::int32_t>(rows), cut.take<std::int32_t>(rows),
          cut.take<std::uint32_t>(rows)};
}

/// Operands are f32 or bf16 (sizes below are f32's, the larger).
struct ForwardScratch {
  float* queries;   ///< [blocks] of q^T [head, 64]
  float* sums;      ///< [blocks] of out^T [head, 64]
  RowState rows;    ///< [blocks * 64]
  float* keys;      ///< packed block of keys
  float* values;    ///< packed block of values
  float* scores;    ///< [64 keys, 64 rows]
  float* weights;   ///< probabilities as an operand
  float* staging;   ///< [64, head] for transposes
  float* staging2;  ///< [64, head]
  float* factor;    ///< [64]
};

inline ForwardScratch cut_forward(ScratchCutter& cut, std::int64_t rows, std::int64_t head) {
  const std::int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  const std::int64_t tile = kRowBlock * head;
  return {cut.take<float>(blocks * tile),
          cut.take<float>(blocks * tile),
          take_rows(cut, blocks * kRowBlock),
          cut.take<float>(kKeyBlock * head),
          cut.take<float>(kKeyBlock * head),
          cut.take<float>(kKeyBlock * kRowBlock),
          cut.take<float>(kKeyBlock * kRowBlock),
          cut.take<float>(tile),
          cut.take<float>(tile),
          cut.take<float>(kRowBlock)};
}

struct BackwardScratch {
  float* keys;      ///< [key blocks] packed, as in the forward pass
  float* keys_t;    ///< [key blocks] packed for dq; the same memory as keys where one form serves both
  float* values;    ///< [key blocks] packed for dO v^T
  float* dk;        ///< [keys, head] sums
  float* dv;        ///< [keys, head] sums
  RowState rows;    ///< [64]
  float* q_t;       ///< q^T [head, 64]
  float* q;         ///< q [64, head] as right operand
  float* dout_t;    ///< dO^T [head, 64]
  float* dout;      ///< dO [64, head] as right operand
  float* dq_t;      ///< dq^T [head, 64] sums
  float* scores;    ///< [64 keys, 64 rows]
  float* dp;        ///< [64 keys, 64 rows]
  float* p_rows;    ///< P^T as left operand
  float* ds_rows;   ///< dS^T as left operand
  float* ds_pairs;  ///< dS^T as right operand
  float* staging;   ///< [64, head]
  float* staging2;  ///< [64, head]
};

inline BackwardScratch cut_backward(ScratchCutter& cut, std::int64_t keys, std::int64_t head) {
  const std::int64_t padded_keys = (keys + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
  const std::int64_t tile = kRowBlock * head;
  const std::int64_t square = kKeyBlock * kRowBlock;
  // keys_t exists only for bf16 operands, where keys and keys_t together take what keys take in f32.
  float* keys_memory = cut.take<float>(padded_keys * head);
  float* keys_t = keys_memory == nullptr ? nullptr : keys_memory + padded_keys * head / 2;
  return {keys_memory,
          keys_t,
          cut.take<float>(padded_keys * head),
          cut.take<float>(padded_keys * head),
          cut.take<float>(padded_keys * head),
          take_rows(cut, kRowBlock),
          cut.take<float>(tile),
          cut.take<float>(tile),
          cut.take<float>(tile),
          cut.take<float>(tile),
          cut.take<float>(tile),
          cut.take<float>(square),
          cut.take<float>(square),
          cut.take<float>(square),
          cut.take<float>(square),
          cut.take<float>(square),
          cut.take<float>(tile),
          cut.take<float>(tile)};
}

/// Virtual rows of the largest forward task.
constexpr std::int64_t forward_task_rows(std::int64_t group) {
  return group > kAttentionTaskRows ? group : kAttentionTaskRows;
}

}  // namespace
}  // namespace quern
