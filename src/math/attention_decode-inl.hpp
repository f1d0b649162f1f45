// Attention of few query rows, as in decoding, where every key and value is read once and used once or a few times. Lanes
// are keys while scores are formed and dimensions while values are added up. Each score and each output is the chain of
// fused multiply-adds that forward_task computes, and the softmax adds up in its order, so a row has the same bits here and
// there.
#pragma once

#include "math/attention_key_columns-inl.hpp"
#include "math/attention_tasks-inl.hpp"

namespace quern {
namespace {

/// Query rows times query heads per KV head that are computed this way; above, forward_task shares its work among more.
constexpr std::int64_t kFewRows = 8;
/// Columns of scores: one group of softmax_step's rows.
constexpr std::int64_t kFewStride = kRowGroup;
/// Dimensions taken together: a block of every KV format.
constexpr std::int64_t kDims = kKvBlock;
/// Rows whose sums stay in registers while values pass.
constexpr int kFewAtOnce = kLanes == 16 ? 8 : 2;

/// Cache lines of the next block of keys and values, which are asked for a few at a time while this block is computed: a
/// core that asks for more than its line buffers hold waits for memory.
class LinesAhead {
 public:
  void add(const KvRows& rows, std::int64_t count, std::int64_t row_bytes) {
    const bool dense = rows.stride == row_bytes;
    spans_[count_++] = {rows.data, rows.stride, dense ? 1 : count, dense ? count * row_bytes : row_bytes};
    lines_ += count * ((row_bytes + 63) / 64);
  }
  /// Spreads what was added over this many calls of advance(), the first half of it over `first` of them.
  void spread(std::int64_t first, std::int64_t rest) {
    per_step_ = (lines_ / 2 + first - 1) / first;
    later_ = (lines_ / 2 + rest - 1) / rest;
  }
  /// From here on as many at a time as the rest needs.
  void second_half() { per_step_ = later_; }
  HWY_INLINE void advance() {
    for (std::int64_t i = 0; i < per_step_ && span_ < count_; ++i) {
      Span& span = spans_[span_];
      __builtin_prefetch(span.row + offset_, 0, 2);
      offset_ += 64;
      if (offset_ < span.bytes) continue;
      offset_ = 0;
      span.row += span.stride;
      if (--span.rows == 0) ++span_;
    }
  }

 private:
  struct Span {
    const std::byte* row;
    std::int64_t stride;
    std::int64_t rows;
    std::int64_t bytes;
  };
  Span spans_[2];
  std::int64_t lines_ = 0;
  std::int64_t per_step_ = 0;
  std::int64_t later_ = 0;
  std::int64_t offset_ = 0;
  int count_ = 0;
  int span_ = 0;
};

/// Groups of kLanes keys that are scored together with kRows rows: enough chains of additions to keep a core busy.
template <int kRows>
constexpr int kKeyGroups = kRows == 1 ? 4 : (kRows == 2 || (kRows == 4 && kLanes == 16) ? 2 : 1);

/// Rows that few_scores works with for `count` of them.
constexpr std::int64_t score_rows(std::int64_t count) { return count <= 2 ? count : (count <= 4 ? 4 : 8); }

/// to [row, 64] = products of kRows rows with the 64 keys of a block.
template <class Block, int kRows>
inline void score_key_block(const KvRows& keys, std::int64_t head_dim, const float* const* q, float* to, LinesAhead& ahead) {
  const DF df;
  constexpr int kGroups = kKeyGroups<kRows>;
  using Columns = KeyColumns<Block>;
  for (std::int64_t k = 0; k < kKeyBlock; k += kGroups * kLanes) {
    VF sum[kGroups][kRows];
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[g][r] = hn::Zero(df);
    }
    for (std::int64_t d = 0; d < head_dim; d += kDims) {
      const auto columns_of = [&](int g) __attribute__((always_inline)) {
        return Columns(keys.data + (k + (g < kGroups ? g : 0) * kLanes) * keys.stride, keys.stride, d);
      };
      const Columns columns[4] = {columns_of(0), columns_of(1), columns_of(2), columns_of(3)};
      // All groups go through the same few dimensions, so that their chains overlap.
#pragma GCC unroll 8
      for (int p = 0; p < kDims / Columns::kStep; ++p) {
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) {
          ahead.advance();
          asm volatile("" ::: "memory");  // or GCC keeps all of q's elements for the next group, on the stack
          columns[g].part(
              p, [&](std::int64_t i, VF key) __attribute__((always_inline)) {
#pragma GCC unroll 8
                for (int r = 0; r < kRows; ++r) sum[g][r] = hn::MulAdd(key, hn::Set(df, q[r][d + i]), sum[g][r]);
              });
        }
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) hn::Store(sum[g][r], df, to + r * kKeyBlock + k + g * kLanes);
    }
  }
}

/// scratch.staging [row, 64] = scores of `count` rows with a block of `keys` keys; those of missing keys are zero.
template <class Block>
inline void few_scores(KvRows rows, std::int64_t keys, std::int64_t head_dim, const float* const* q, std::int64_t count,
                       const ForwardScratch& scratch, LinesAhead& ahead) {
  if (keys < kKeyBlock) {
    const KvFormat format = kv_format(rows.type);
    const std::int64_t bytes = head_dim / format.block_elements * format.block_bytes;
    auto* copy = reinterpret_cast<std::byte*>(scratch.keys);
    for (std::int64_t k = 0; k < keys; ++k) {
      __builtin_memcpy(copy + k * bytes, rows.data + k * rows.stride, static_cast<std::size_t>(bytes));
    }
    __builtin_memset(copy + keys * bytes, 0, static_cast<std::size_t>((kKeyBlock - keys) * bytes));
    rows = {.data = copy, .stride = bytes, .type = rows.type};
  }
  float* by_row = scratch.staging;  // [rows, 64]
  switch (score_rows(count)) {
    case 1:
      score_key_block<Block, 1>(rows, head_dim, q, by_row, ahead);
      break;
    case 2:
      score_key_block<Block, 2>(rows, head_dim, q, by_row, ahead);
      break;
    case 4:
      score_key_block<Block, 4>(rows, head_dim, q, by_row, ahead);
      break;
    default:
      score_key_block<Block, 8>(rows, head_dim, q, by_row, ahead);
      break;
  }
}

/// softmax_step of one row with its 64 scores in a row: the same numbers, added in the same order, with keys as lanes.
/// Weights of keys outside `range` are not written. Returns the factor by which the row's sums must be multiplied.
HWY_INLINE float softmax_row(const ScoreRule& rule, const RowState& rows, const KeyRange& range, std::int64_t base,
                             std::int64_t r, float* scores, float* weights) {
  const DF df;
  if (rule.in_place) scores_in_place(rule, scores, kLanes, range.begin / kLanes, round_up(range.end, kLanes) / kLanes);
  const VF factor = hn::Set(df, rule.in_place ? 1.0F : rule.factor);
  const VF lowest = hn::Set(df, -3.0e38F);
  const VI low = hn::Set(DI(), rows.low[r]);
  const VI high = hn::Set(DI(), static_cast<std::int32_t>(min_of(rows.high[r], base + range.end - 1)));
  const auto seen = [&](std::int64_t k) __attribute__((always_inline)) {
    const VI position = hn::Iota(DI(), static_cast<std::int32_t>(base + k));
    return hn::RebindMask(df, hn::And(hn::Not(hn::Lt(position, low)), hn::Not(hn::Gt(position, high))));
  };
  const std::int64_t first = range.begin / kLanes * kLanes;
  VF top = lowest;
  for (std::int64_t k = first; k < range.end; k += kLanes) {
    top = hn::Max(top, hn::IfThenElse(seen(k), hn::Load(df, scores + k), lowest));
  }
  const VF raw_top = hn::MaxOfLanes(df, top);
  const VF old_m = hn::Set(df, rows.m[r]);
  const VF block_top = hn::IfThenElse(hn::Gt(raw_top, lowest), hn::Mul(raw_top, factor), lowest);
  const VF m = hn::IfThenElse(hn::Gt(block_top, hn::Add(old_m, hn::Set(df, kRaise))), block_top, old_m);
  const VF rescale = exp2_of<false>(hn::Sub(old_m, m));
  for (std::int64_t k = first; k < range.end; k += kLanes) {
    const VF p = exp2_of<false>(hn::MulSub(hn::Load(df, scores + k), factor, m));
    hn::Store(hn::IfThenElseZero(seen(k), p), df, weights + k);
  }
  // Sums run over keys mod 4.
#if HWY_TARGET == HWY_SCALAR
  float sum[4] = {0.0F, 0.0F, 0.0F, 0.0F};
  for (std::int64_t k = range.begin; k < range.end; ++k) sum[k % 4] += weights[k];
#else
  alignas(16) float sum[4];
  const hn::Full128<float> d4;
  auto sums = hn::Zero(d4);
  for (std::int64_t k = range.begin; k < range.end; k += 4) sums = hn::Add(sums, hn::Load(d4, weights + k));
  hn::Store(sums, d4, sum);
#endif
  const float total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  const float scale = hn::GetLane(rescale);
  rows.m[r] = hn::GetLane(m);
  rows.l[r] = __builtin_fmaf(rows.l[r], scale, total);
  return scale;
}

/// sums [row, dim] += weights [key, row] values [key, dim] for kRows rows and kBlocks times kDims dimensions.
template <class Block, int kRows, int kBlocks>
inline void few_values(const KvRows& rows, std::int64_t k0, std::int64_t k1, std::int64_t d, const float* weights,
                       float* sums, std::int64_t head, LinesAhead& ahead) {
  const DF df;
  constexpr int kVectors = kDims / kLanes;
  VF sum[kRows][kBlocks * kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kBlocks * kVectors; ++v) sum[r][v] = hn::Load(df, sums + r * head + d + v * kLanes);
  }
  for (std::int64_t k = k0; k < k1; ++k) {
    ahead.advance();
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
                           float* sums, std::int64_t head, LinesAhead& ahead) {
  constexpr int kBlocks = kLanes == 16 ? (kRows <= 2 ? 4 : 2) : (kRows == 1 ? 2 : 1);
  std::int64_t d = 0;
  for (; d + kBlocks * kDims <= head_dim; d += kBlocks * kDims) {
    few_values<Block, kRows, kBlocks>(rows, k0, k1, d, weights, sums, head, ahead);
  }
  for (; d < head_dim; d += kDims) few_values<Block, kRows, 1>(rows, k0, k1, d, weights, sums, head, ahead);
}

template <class Block>
inline void few_block(const KvRows& values, std::int64_t k0, std::int64_t k1, std::int64_t head_dim, std::int64_t count,
                      const ForwardScratch& scratch, std::int64_t head, LinesAhead& ahead) {
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
  for (std::int64_t r = 0; r < kFewRows; ++r) q[r] = queries.at(min_of(r, count - 1));
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
    LinesAhead ahead;
    if (base + kKeyBlock <= last) {
      const std::int64_t next_keys = min_of(kv.length - base - kKeyBlock, kKeyBlock);
      const KvFormat format = kv_format(kv.type);
      const std::int64_t bytes = head_dim / format.block_elements * format.block_bytes;
      for (const KvRows& from :
           {key_rows(kv, base + kKeyBlock, task.kv_head), value_rows(kv, base + kKeyBlock, task.kv_head)}) {
        ahead.add(from, next_keys, bytes);
      }
      ahead.spread(kKeyBlock / kLanes * (head_dim / KeyColumns<Block>::kStep), kKeyBlock);
    }
    const KeyRange range = group_range(rows, 0, count, base);
    if (range.begin == range.end) continue;
    few_scores<Block>(key_rows(kv, base, task.kv_head), keys, head_dim, q, count, scratch, ahead);
    for (std::int64_t r = 0; r < count; ++r) {
      const float factor =
          softmax_row(rule, rows, range, base, r, scratch.staging + r * kKeyBlock, scratch.scores + r * kKeyBlock);
      if (factor == 1.0F) continue;
      for (std::int64_t d = 0; d < head; ++d) scratch.sums[r * head + d] *= factor;
    }
    transpose32(scratch.scores, kKeyBlock, round_up(count, 4), kKeyBlock, scratch.weights, kFewStride);
    ahead.second_half();
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
