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

struct ForwardScratch {
  float* queries;  ///< [blocks] of q^T [head, 64]
  float* sums;     ///< [blocks] of out^T [head, 64]
  RowState rows;   ///< [blocks * 64]
  float* keys;     ///< packed block of keys
  float* values;   ///< packed block of values
  float* scores;   ///< [64 keys, 64 rows]
  float* weights;  ///< probabilities as an operand
  float* staging;  ///< [64, head] for transposes
  float* factor;   ///< [64]
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
          cut.take<float>(kRowBlock)};
}

struct BackwardScratch {
  float* keys;     ///< [key blocks] packed, as in the forward pass
  float* values;   ///< [key blocks] packed for dO v^T
  float* dk;       ///< [keys, head] sums
  float* dv;       ///< [keys, head] sums
  RowState rows;   ///< [64]
  float* q_t;      ///< q^T [head, 64]
  float* q;        ///< q [64, head] as right operand
  float* dout_t;   ///< dO^T [head, 64]
  float* dout;     ///< dO [64, head] as right operand
  float* dq_t;     ///< dq^T [head, 64] sums
  float* scores;   ///< [64 keys, 64 rows]
  float* dp;       ///< [64 keys, 64 rows]
  float* p;        ///< P^T [64 keys, 64 rows]
  float* ds;       ///< dS^T [64 keys, 64 rows]
  float* staging;  ///< [64, head]
};

inline BackwardScratch cut_backward(ScratchCutter& cut, std::int64_t keys, std::int64_t head) {
  const std::int64_t padded_keys = (keys + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
  const std::int64_t tile = kRowBlock * head;
  const std::int64_t square = kKeyBlock * kRowBlock;
  return {cut.take<float>(padded_keys * head),
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
          cut.take<float>(tile)};
}

/// Virtual rows of the largest forward task.
constexpr std::int64_t forward_task_rows(std::int64_t group) {
  return group > kAttentionTaskRows ? group : kAttentionTaskRows;
}

// AMX tiles take groups of 16 virtual rows; operands are bf16.

constexpr std::int64_t kTileGroup = 16;

struct TileForwardScratch {
  std::uint32_t* queries;  ///< [groups] of q^T [head / 2][16] pairs
  float* sums;             ///< [groups] of out^T [head][16]
  RowState rows;           ///< [groups * 16]
  std::uint16_t* keys;     ///< a block of keys [64, head]
  std::uint16_t* values;   ///< a block of values^T [head][64]
  std::uint16_t* staging;  ///< [64, head]
  float* scores[2];        ///< [64 keys][16 rows]
  std::uint32_t* weights;  ///< probabilities [64 keys / 2][16 rows] pairs
  float* factor;           ///< [16]
};

inline TileForwardScratch cut_tile_forward(ScratchCutter& cut, std::int64_t rows, std::int64_t head) {
  const std::int64_t padded = (rows + kTileGroup - 1) / kTileGroup * kTileGroup;
  return {cut.take<std::uint32_t>(padded * head / 2),
          cut.take<float>(padded * head),
          take_rows(cut, padded),
          cut.take<std::uint16_t>(kKeyBlock * head),
          cut.take<std::uint16_t>(kKeyBlock * head),
          cut.take<std::uint16_t>(kKeyBlock * head),
          {cut.take<float>(kKeyBlock * kTileGroup), cut.take<float>(kKeyBlock * kTileGroup)},
          cut.take<std::uint32_t>(kKeyBlock / 2 * kTileGroup),
          cut.take<float>(kTileGroup)};
}

/// Virtual rows whose gradients are formed together: the length of the sums that make dk and dv, which tiles keep in
/// registers meanwhile.
constexpr std::int64_t kTileChunk = 256;
/// Rows of P^T and dS^T in elements; more than kTileChunk, so that keys spread over the sets of the first-level cache.
constexpr std::int64_t kTileChunkStride = kTileChunk + 32;

struct TileBackwardScratch {
  std::uint16_t* keys;      ///< [keys, head]
  std::uint16_t* keys_t;    ///< [key blocks] of keys^T [head][64]
  std::uint16_t* values;    ///< [keys, head]
  float* dk;                ///< [keys, head] sums, columns in order of halves
  float* dv;                ///< [keys, head]
  RowState rows;            ///< [256]
  std::uint32_t* q_t;       ///< [16 groups] of q^T [head / 2][16] pairs
  std::uint32_t* dout_t;    ///< [16 groups] of dO^T
  std::uint32_t* q;         ///< [head / 32] of pairs of rows [128][32]
  std::uint32_t* dout;      ///< dO alike
  float* dq_t;              ///< [16 halves of strips] of dq^T [head][16]
  std::uint16_t* p;         ///< P^T [64 keys, kTileChunkStride]
  std::uint16_t* ds;        ///< dS^T alike
  float* scores[2][2];      ///< [64 keys][16 rows] for both groups of a strip
  float* dp[2][2];          ///< alike
  std::uint32_t* ds_pairs;  ///< [2 halves] of dS^T [64 keys / 2][16] pairs
  std::uint16_t* staging;   ///< [64, head]
};

inline TileBackwardScratch cut_tile_backward(ScratchCutter& cut, std::int64_t keys, std::int64_t head) {
  const std::int64_t padded = (keys + kKeyBlock - 1) / kKeyBlock * kKeyBlock;
  const auto group = [&] { return cut.take<float>(kKeyBlock * kTileGroup); };
  return {cut.take<std::uint16_t>(padded * head),
          cut.take<std::uint16_t>(padded * head),
          cut.take<std::uint16_t>(padded * head),
          cut.take<float>(padded * head),
          cut.take<float>(padded * head),
          take_rows(cut, kTileChunk),
          cut.take<std::uint32_t>(kTileChunk * head / 2),
          cut.take<std::uint32_t>(kTileChunk * head / 2),
          cut.take<std::uint32_t>(kTileChunk * head / 2),
          cut.take<std::uint32_t>(kTileChunk * head / 2),
          cut.take<float>(kTileChunk * head),
          cut.take<std::uint16_t>(kKeyBlock * kTileChunkStride),
          cut.take<std::uint16_t>(kKeyBlock * kTileChunkStride),
          {{group(), group()}, {group(), group()}},
          {{group(), group()}, {group(), group()}},
          cut.take<std::uint32_t>(2 * kKeyBlock / 2 * kTileGroup),
          cut.take<std::uint16_t>(kKeyBlock * head)};
}

}  // namespace
}  // namespace quern
