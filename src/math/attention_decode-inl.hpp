// Attention of few query rows, as in decoding, where every key and value is read once and used once or a few times. Lanes
// are keys while scores are formed (blocks of keys are transposed 32 dimensions at a time) and dimensions while values are
// added up. Each score and each output is the chain of fused multiply-adds that forward_task computes, and the softmax is
// its own, so a row has the same bits here and there.
#pragma once

#include "math/attention_tasks-inl.hpp"

namespace quern {
namespace {

/// Query rows times query heads per KV head that are computed this way; above, forward_task shares its work among more.
constexpr std::int64_t kFewRows = 8;
/// Columns of scores: one group of softmax_step's rows.
constexpr std::int64_t kFewStride = kRowGroup;
/// Dimensions transposed together: a block of every KV format.
constexpr std::int64_t kDims = kKvBlock;
/// Rows whose sums stay in registers while values pass.
constexpr int kFewAtOnce = kLanes == 16 ? 8 : 2;

/// What softmax_step needs to know of where scores and weights lie.
struct FewProducts {
  using Operand = float;
  static constexpr std::int64_t kScoreStride = kFewStride;
  static constexpr bool kRound = false;
  HWY_INLINE static void store_right(float* weights, std::int64_t k, std::int64_t c, VF x0, VF x1) {
    hn::StoreU(x0, DF(), weights + k * kFewStride + c);
    hn::StoreU(x1, DF(), weights + (k + 1) * kFewStride + c);
  }
};

/// to [kDims, 64] = from [64, kDims]^T.
HWY_INLINE void transpose_keys(const float* HWY_RESTRICT from, float* HWY_RESTRICT to) {
#if HWY_TARGET == HWY_AVX3
  for (std::int64_t k = 0; k < kKeyBlock; k += 16) {
    for (std::int64_t d = 0; d < kDims; d += 4) {
      const float* at = from + k * kDims + d;
      __m512 quarter[4];  // keys j, j + 4, j + 8, j + 12
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        __m512 v = _mm512_castps128_ps512(_mm_load_ps(at + j * kDims));
        v = _mm512_insertf32x4(v, _mm_load_ps(at + (j + 4) * kDims), 1);
        v = _mm512_insertf32x4(v, _mm_load_ps(at + (j + 8) * kDims), 2);
        quarter[j] = _mm512_insertf32x4(v, _mm_load_ps(at + (j + 12) * kDims), 3);
      }
      const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(quarter[0], quarter[1]));
      const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(quarter[0], quarter[1]));
      const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(quarter[2], quarter[3]));
      const __m512d e = _mm512_castps_pd(_mm512_unpackhi_ps(quarter[2], quarter[3]));
      float* out = to + d * kKeyBlock + k;
      _mm512_store_pd(out, _mm512_unpacklo_pd(a, c));
      _mm512_store_pd(out + kKeyBlock, _mm512_unpackhi_pd(a, c));
      _mm512_store_pd(out + 2 * kKeyBlock, _mm512_unpacklo_pd(b, e));
      _mm512_store_pd(out + 3 * kKeyBlock, _mm512_unpackhi_pd(b, e));
    }
  }
#else
  transpose32(from, kDims, kKeyBlock, kDims, to, kKeyBlock);
#endif
}

/// scores [key, row] of `count` rows with a block of `keys` keys.
template <class Block>
inline void few_scores(const KvRows& rows, std::int64_t keys, std::int64_t head_dim, const float* const* q,
                       std::int64_t count, const ForwardScratch& scratch, RowsAhead& ahead) {
  const DF df;
  constexpr int kVectors = kKeyBlock / kLanes;
  float* by_row = scratch.staging;  // [count rounded up to 4, 64]
  for (std::int64_t i = keys * kDims; i < kKeyBlock * kDims; ++i) scratch.keys[i] = 0.0F;
  for (std::int64_t d = 0; d < head_dim; d += kDims) {
    for (std::int64_t k = 0; k < keys; ++k) {
      const Block block(rows.data + k * rows.stride, d);
#pragma GCC unroll 4
      for (std::int64_t i = 0; i < kDims; i += kLanes) hn::Store(block.load(i), df, scratch.keys + k * kDims + i);
    }
    ahead.advance();
    transpose_keys(scratch.keys, scratch.values);
    for (std::int64_t r = 0; r < count; ++r) {
      VF sum[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        sum[v] = d == 0 ? hn::Zero(df) : hn::Load(df, by_row + r * kKeyBlock + v * kLanes);
      }
      const float* key = scratch.values;
      for (std::int64_t i = 0; i < kDims; ++i, key += kKeyBlock) {
        const VF x = hn::Set(df, q[r][d + i]);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sum[v] = hn::MulAdd(hn::Load(df, key + v * kLanes), x, sum[v]);
      }
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) hn::Store(sum[v], df, by_row + r * kKeyBlock + v * kLanes);
    }
    ahead.advance();
  }
  const std::int64_t padded = round_up(count, 4);
  for (std::int64_t i = count * kKeyBlock; i < padded * kKeyBlock; ++i) by_row[i] = 0.0F;
  transpose32(by_row, kKeyBlock, padded, kKeyBlock, scratch.scores, kFewStride);
}

/// sums [row, dim] += weights [key, row] values [key, dim] for kRows rows and kBlocks times kDims dimensions.
template <class Block, int kRows, int kBlocks>
inline void few_values(const KvRows& rows, std::int64_t k0, std::int64_t k1, std::int64_t d, const float* weights,
                       float* sums, std::int64_t head) {
  const DF df;
  constexpr int kVectors = kDims / kLanes;
  VF sum[kRows][kBlocks * kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kBlocks * kVectors; ++v) sum[r][v] = hn::Load(df, sums + r * head + d + v * kLanes);
  }
  for (std::int64_t k = k0; k < k1; ++k) {
    VF weight[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) weight[r] = hn::Set(df, weights[k * kFewStride + r]);
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) {
      const Block block(rows.data + k * rows.stride, d + b * kDims);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const VF x = block.load(v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sum[r][b * kVectors + v] = hn::MulAdd(x, weight[r], sum[r][b * kVectors + v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kBlocks * kVectors; ++v) hn::Store(sum[r][v], df, sums + r * head + d + v * kLanes);
  }
}

template <class Block, int kRows>
inline void few_values_all(const KvRows& rows, std::int64_t k0, std::int64_t k1, std::int64_t head_dim, const float* weights,
                           float* sums, std::int64_t head, RowsAhead& ahead) {
  constexpr int kBlocks = kRows == 1 ? (kLanes == 16 ? 4 : 2) : (kRows == 2 && kLanes == 16 ? 4 : 1);
  std::int64_t d = 0;
  for (; d + kBlocks * kDims <= head_dim; d += kBlocks * kDims) {
    few_values<Block, kRows, kBlocks>(rows, k0, k1, d, weights, sums, head);
    ahead.advance();
  }
  for (; d < head_dim; d += kDims) few_values<Block, kRows, 1>(rows, k0, k1, d, weights, sums, head);
}

template <class Block>
inline void few_block(const KvRows& values, std::int64_t k0, std::int64_t k1, std::int64_t head_dim, std::int64_t count,
                      const ForwardScratch& scratch, std::int64_t head, RowsAhead& ahead) {
  std::int64_t r = 0;
  const auto rows = [&]<int kRows>() {
    for (; r + kRows <= count; r += kRows) {
      few_values_all<Block, kRows>(values, k0, k1, head_dim, scratch.weights + r, scratch.sums + r * head, head, ahead);
    }
  };
  if constexpr (kFewAtOnce == 8) {
    rows.template operator()<8>();
    rows.template operator()<4>();
  }
  rows.template operator()<2>();
  rows.template operator()<1>();
}

/// The task for heads of whole KV blocks and at most kFewRows virtual rows, without dropout.
template <class Block>
void few_rows(const AttentionForwardTask& task) {
  const AttentionShape& shape = *task.shape;
  const AttentionSequence& sequence = *task.sequence;
  const KvView& kv = sequence.kv;
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t head_dim = shape.head_dim;
  const std::int64_t head = padded_head(head_dim);
  const std::int64_t count = task.queries * group;
  const std::int64_t batch_row = sequence.first_row + task.first_query;
  const std::int64_t first_head = task.kv_head * group;
  ScratchCutter cut{task.scratch};
  const ForwardScratch scratch = cut_forward(cut, forward_task_rows(group), head);
  const ScoreRule rule = score_rule(shape, *task.dropout);
  const RowState& rows = scratch.rows;
  const VirtualRows<const float> queries{
      static_cast<const float*>(task.q) + batch_row * task.q_stride + first_head * head_dim, task.q_stride, group, head_dim};
  const VirtualRows<float> out{static_cast<float*>(task.out) + batch_row * task.out_stride + first_head * head_dim,
                               task.out_stride, group, head_dim};
  const float* q[kFewRows];
  for (std::int64_t r = 0; r < count; ++r) q[r] = queries.at(r);
  fill_positions(shape, sequence, *task.dropout, task.kv_head, task.first_query, 0, count, kFewStride, rows);
  for (std::int64_t r = 0; r < kFewStride; ++r) {
    rows.m[r] = kNoMaximum;
    rows.l[r] = 0.0F;
  }
  for (std::int64_t i = 0; i < count * head; ++i) scratch.sums[i] = 0.0F;

  const std::int64_t last = rows.high[count - 1];
  for (std::int64_t base = rows.low[0] / kKeyBlock * kKeyBlock; base <= last; base += kKeyBlock) {
    const std::int64_t keys = min_of(kv.length - base, kKeyBlock);
    // The next block comes into second-level cache meanwhile.
    RowsAhead ahead;
    if (base + kKeyBlock <= last) {
      const std::int64_t next_keys = min_of(kv.length - base - kKeyBlock, kKeyBlock);
      const KvFormat format = kv_format(kv.type);
      const std::int64_t bytes = head_dim / format.block_elements * format.block_bytes;
      for (const KvRows& from :
           {key_rows(kv, base + kKeyBlock, task.kv_head), value_rows(kv, base + kKeyBlock, task.kv_head)}) {
        ahead.add(from.data, from.stride, next_keys, bytes);
      }
      ahead.spread(2 * head_dim / kDims + 1);
    }
    const KeyRange range = group_range(rows, 0, count, base);
    if (range.begin == range.end) continue;
    few_scores<Block>(key_rows(kv, base, task.kv_head), keys, head_dim, q, count, scratch, ahead);
    for (std::int64_t c = 0; c < count; c += kLanes) {
      softmax_rows<FewProducts>(rule, rows, range, base, c, scratch.scores, scratch.factor, scratch.weights);
    }
    for (std::int64_t r = 0; r < count; ++r) {
      if (scratch.factor[r] == 1.0F) continue;
      for (std::int64_t d = 0; d < head; ++d) scratch.sums[r * head + d] *= scratch.factor[r];
    }
    few_block<Block>(value_rows(kv, base, task.kv_head), range.begin, min_of(range.end, keys), head_dim, count, scratch,
                     head, ahead);
  }

  for (std::int64_t r = 0; r < kFewStride; ++r) {
    scratch.factor[r] = shape.sinks == nullptr ? 0.0F : shape.sinks[first_head + r % group] * kLog2E;
  }
  finish_rows(rows, kFewStride, shape.sinks != nullptr, scratch.factor);
  for (std::int64_t r = 0; r < count; ++r) {
    write_row(scratch.sums + r * head, head_dim, scratch.factor[r], out.at(r));
    if (task.lse != nullptr) task.lse[(batch_row + r / group) * shape.heads + first_head + r % group] = rows.m[r];
  }
}

/// forward_task for f32, or few_rows where that is faster.
void forward_f32_task(const AttentionForwardTask& task) {
  const std::int64_t count = task.queries * (task.shape->heads / task.shape->kv_heads);
  if (count > kFewRows || task.shape->head_dim % kDims != 0 || task.dropout->probability > 0.0F) {
    forward_task<F32Products<float>>(task);
    return;
  }
  switch (task.sequence->kv.type) {
    case ElementType::f32:
      return few_rows<F32Block>(task);
    case ElementType::bf16:
      return few_rows<Bf16Block>(task);
    case ElementType::f16:
      return few_rows<F16Block>(task);
    case ElementType::q8_0:
      return few_rows<Q8Block>(task);
    default:
      return few_rows<Q4Block>(task);
  }
}

}  // namespace
}  // namespace quern
