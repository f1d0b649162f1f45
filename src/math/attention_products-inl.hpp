// The small products of attention blocks with f32 operands, in vectors of any width. bf16 inputs are widened while packing.
//
// Every product writes C [m, n] (+)= A [m, k] B [k, n], where lanes run along n. An element of C is one chain of fused
// multiply-adds over k, whatever the register tile.
#pragma once

#include "math/attention_scratch-inl.hpp"
#include "math/attention_unpack-inl.hpp"
#include "math/attention_vector-inl.hpp"

namespace quern {
namespace {

/// A strided left operand: element (m, k) at data + m * m_stride + k * k_stride.
struct LeftOperand {
  const float* data;
  std::int64_t m_stride;
  std::int64_t k_stride;
};

template <int kM, int kN>
HWY_INLINE void product_tile(std::int64_t depth, const LeftOperand& a, const float* HWY_RESTRICT b, std::int64_t b_stride,
                             float* HWY_RESTRICT c, std::int64_t c_stride, bool accumulate) {
  const DF df;
  VF sum[kM][kN];
#pragma GCC unroll 16
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) {
      sum[i][j] = accumulate ? hn::LoadU(df, c + i * c_stride + j * kLanes) : hn::Zero(df);
    }
  }
  const float* left = a.data;
  for (std::int64_t k = 0; k < depth; ++k, left += a.k_stride, b += b_stride) {
    VF right[kN];
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) right[j] = hn::LoadU(df, b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kM; ++i) {
      const VF x = hn::Set(df, left[i * a.m_stride]);
#pragma GCC unroll 16
      for (int j = 0; j < kN; ++j) sum[i][j] = hn::MulAdd(x, right[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) hn::StoreU(sum[i][j], df, c + i * c_stride + j * kLanes);
  }
}

/// Rows per register tile: 8 x 2 vectors leave room in 32 registers, 4 x 2 in 16.
constexpr int kTileM = kLanes == 16 ? 8 : 4;

/// m is a multiple of kTileM, n of kLanes.
inline void multiply(std::int64_t m, std::int64_t n, std::int64_t depth, const LeftOperand& a, const float* b,
                     std::int64_t b_stride, float* c, std::int64_t c_stride, bool accumulate) {
  std::int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    for (std::int64_t i = 0; i < m; i += kTileM) {
      product_tile<kTileM, 2>(depth, {a.data + i * a.m_stride, a.m_stride, a.k_stride}, b + j, b_stride,
                              c + i * c_stride + j, c_stride, accumulate);
    }
  }
  for (; j < n; j += kLanes) {
    for (std::int64_t i = 0; i < m; i += kTileM) {
      product_tile<kTileM, 1>(depth, {a.data + i * a.m_stride, a.m_stride, a.k_stride}, b + j, b_stride,
                              c + i * c_stride + j, c_stride, accumulate);
    }
  }
}

/// Virtual rows of a task: row v is head v % group of query v / group.
template <class T>
struct VirtualRows {
  T* data = nullptr;        ///< the task's first query, the group's first head
  std::int64_t stride = 0;  ///< elements from a query to the next
  std::int64_t group = 1;
  std::int64_t head_dim = 0;

  [[nodiscard]] T* at(std::int64_t v) const {
    if (group == 1) return data + v * stride;  // spares the division
    return data + v / group * stride + v % group * head_dim;
  }
};

template <class T>
struct F32Products {
  using Element = T;
  using Operand = float;
  static constexpr std::int64_t kScoreStride = kRowBlock;
  /// Probabilities and score gradients are rounded to bf16 like those of matrix units, so that paths stay comparable.
  static constexpr bool kRound = sizeof(T) == 2;

  /// Rows [first, first + count) as right operands: `t` [head, 64] and `right` [64, head]. Rows past count are zero.
  static void pack_rows(const VirtualRows<const T>& rows, std::int64_t first, std::int64_t count, std::int64_t head,
                        float* right, float* t) {
    for (std::int64_t r = 0; r < count; ++r) unpack_row(rows.at(first + r), rows.head_dim, right + r * head, head);
    const std::int64_t columns = round_up(count, 16);
    for (std::int64_t i = count * head; i < kRowBlock * head; ++i) right[i] = 0.0F;
    transpose32(right, head, columns, head, t, kRowBlock);
  }

  /// `count` keys or values of a block, in T's precision; missing ones are zero.
  static void pack_keys(const KvRows& from, std::int64_t count, std::int64_t head_dim, std::int64_t head, float* to) {
    switch (from.type) {
      case ElementType::f32:
        unpack_kv_rows<F32Block, kRound>(from, count, head_dim, to, head);
        break;
      case ElementType::bf16:
        unpack_kv_rows<Bf16Block, false>(from, count, head_dim, to, head);
        break;
      case ElementType::f16:
        unpack_kv_rows<F16Block, kRound>(from, count, head_dim, to, head);
        break;
      case ElementType::q8_0:
        unpack_kv_rows<Q8Block, kRound>(from, count, head_dim, to, head);
        break;
      default:
        unpack_kv_rows<Q4Block, kRound>(from, count, head_dim, to, head);
        break;
    }
    for (std::int64_t i = count * head; i < kKeyBlock * head; ++i) to[i] = 0.0F;
  }

  /// scores [key, row] = keys [key, head] t [head, row] for keys k0 .. k1-1 and rows c0 .. c0+columns-1.
  static void scores(const float* keys, const float* t, float* scores, std::int64_t head, std::int64_t k0, std::int64_t k1,
                     std::int64_t c0, std::int64_t columns) {
    multiply(k1 - k0, columns, head, {keys + k0 * head, head, 1}, t + c0, kRowBlock, scores + k0 * kRowBlock + c0, kRowBlock,
             false);
  }
  /// sums^T [head, row] (+)= values^T [head, key] weights [key, row].
  static void add_values(const float* values, const float* weights, float* sums, std::int64_t head, std::int64_t k0,
                         std::int64_t k1, std::int64_t c0, std::int64_t columns, bool accumulate) {
    multiply(head, columns, k1 - k0, {values + k0 * head, 1, head}, weights + k0 * kRowBlock + c0, kRowBlock, sums + c0,
             kRowBlock, accumulate);
  }
  /// sums [key, head] += weights [key, row] right [row, head] over rows 0 .. rows-1.
  static void add_rows(const float* weights, const float* right, float* sums, std::int64_t head, std::int64_t k0,
                       std::int64_t k1, std::int64_t rows) {
    multiply(k1 - k0, head, rows, {weights + k0 * kRowBlock, kRowBlock, 1}, right, head, sums + k0 * head, head, true);
  }

  /// Keys k and k + 1 (k even) of the kLanes rows at c.
  HWY_INLINE static void store_right(float* weights, std::int64_t k, std::int64_t c, VF x0, VF x1) {
    const DF df;
    if constexpr (kRound) {
      x0 = round_to_bf16(x0);
      x1 = round_to_bf16(x1);
    }
    hn::StoreU(x0, df, weights + k * kRowBlock + c);
    hn::StoreU(x1, df, weights + (k + 1) * kRowBlock + c);
  }
};

}  // namespace
}  // namespace quern
