// The forward pass of one attention task with AMX tiles. Included only by attention_amx.cpp; everything has internal
// linkage.
//
// For a block of keys packed once and every group of 16 virtual rows: S^T = K Q^T (four tiles), one step of online softmax,
// O^T = O^T * factor + V^T P^T. The products of the next group's scores are issued before this group's softmax, so that
// matrix unit and vectors work at the same time.
#pragma once

#include "math/attention_amx_pack-inl.hpp"

namespace quern {
namespace {

struct TileProducts {
  using Operand = std::uint32_t;
  static constexpr bool kRound = true;
  static constexpr std::int64_t kScoreStride = kTileGroup;

  /// Keys k and k + 1 (k even) of the 16 rows.
  HWY_INLINE static void store_right(Operand* weights, std::int64_t k, std::int64_t /*c*/, VF x0, VF x1) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(weights + k / 2 * kTileGroup, _mm512_permutexvar_epi16(order, rounded(x0, x1)));
  }
};

/// Writes out and lse of a group's rows, whose sums^T are complete.
inline void write_group(const AttentionForwardTask& task, const RowState& rows, const VirtualRows<bf16>& out,
                        const float* sums, std::int64_t first_row, std::int64_t count, float* factor) {
  const AttentionShape& shape = *task.shape;
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t first_head = task.kv_head * group;
  if (shape.sinks != nullptr) {
    for (std::int64_t r = 0; r < kTileGroup; ++r) factor[r] = shape.sinks[first_head + (first_row + r) % group] * kLog2E;
  }
  finish_rows(rows, kTileGroup, shape.sinks != nullptr, factor);
  write_transposed(
      sums, _mm512_loadu_ps(factor), shape.head_dim, [&](std::int64_t r) { return out.at(first_row + r); },
      [&](std::int64_t r) { return r < count; });
  if (task.lse == nullptr) return;
  float* lse = task.lse + (task.sequence->first_row + task.first_query) * shape.heads + first_head;
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t v = first_row + r;
    lse[group == 1 ? v * shape.heads : v / group * shape.heads + v % group] = rows.m[r];
  }
}

void forward_tiles(const AttentionForwardTask& task) {
  const AttentionShape& shape = *task.shape;
  const AttentionSequence& sequence = *task.sequence;
  const KvView& kv = sequence.kv;
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t head_dim = shape.head_dim;
  const std::int64_t head = padded_head(head_dim);
  const std::int64_t count = task.queries * group;
  const std::int64_t groups = round_up(count, kTileGroup) / kTileGroup;
  const std::int64_t batch_row = sequence.first_row + task.first_query;
  const std::int64_t first_head = task.kv_head * group;
  ScratchCutter cut{task.scratch};
  const TileForwardScratch scratch = cut_tile_forward(cut, forward_task_rows(group), head);
  const ScoreRule rule = score_rule(shape, *task.dropout);
  const VirtualRows<const bf16> q{static_cast<const bf16*>(task.q) + batch_row * task.q_stride + first_head * head_dim,
                                  task.q_stride, group, head_dim};
  const VirtualRows<bf16> out{static_cast<bf16*>(task.out) + batch_row * task.out_stride + first_head * head_dim,
                              task.out_stride, group, head_dim};

  fill_positions(shape, sequence, *task.dropout, task.kv_head, task.first_query, 0, count, groups * kTileGroup,
                 scratch.rows);
  for (std::int64_t r = 0; r < groups * kTileGroup; ++r) {
    scratch.rows.m[r] = kNoMaximum;
    scratch.rows.l[r] = 0.0F;
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t first = g * kTileGroup;
    pack_transposed([&](std::int64_t r) { return q.at(first + r); }, count - first, head_dim,
                    scratch.queries + first * head / 2);
  }

  RowsAhead rows_ahead;
  if (task.ahead.sequence != nullptr) {
    const AttentionSequence& next = *task.ahead.sequence;
    const bool same_keys = &next == &sequence && task.ahead.kv_head == task.kv_head;
    const std::int64_t row = next.first_row + task.ahead.first_query;
    rows_ahead.add(static_cast<const bf16*>(task.q) + row * task.q_stride + task.ahead.kv_head * group * head_dim,
                   task.q_stride * 2, next.rows - task.ahead.first_query, group * head_dim * 2);
    if (!same_keys) rows_ahead.add(next.kv, shape, next.first_position + task.ahead.first_query, task.ahead.kv_head);
  }
  std::int64_t steps = 0;
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t last = min_of((g + 1) * kTileGroup, count) - 1;
    steps += scratch.rows.high[last] / kKeyBlock - scratch.rows.low[g * kTileGroup] / kKeyBlock + 1;
  }
  rows_ahead.spread(steps);

  begin_tiles();
  const std::int64_t last_key = scratch.rows.high[count - 1];
  for (std::int64_t base = scratch.rows.low[0] / kKeyBlock * kKeyBlock; base <= last_key; base += kKeyBlock) {
    const std::int64_t keys = min_of(kv.length - base, kKeyBlock);
    pack_keys(key_rows(kv, base, task.kv_head), keys, head_dim, head, scratch.keys);
    const KvRows values = value_rows(kv, base, task.kv_head);
    if (values.type == ElementType::bf16) {
      pack_keys_transposed(reinterpret_cast<const std::uint16_t*>(values.data), values.stride / 2, keys, head_dim,
                           scratch.values);
    } else {
      pack_keys(values, keys, head_dim, head, scratch.staging);
      pack_keys_transposed(scratch.staging, head, kKeyBlock, head, scratch.values);
    }
    const std::int64_t next = base + kKeyBlock;
    if (next <= last_key) {
      const std::int64_t next_keys = min_of(kv.length - next, kKeyBlock);
      prefetch_rows(key_rows(kv, next, task.kv_head), next_keys, head_dim);
      prefetch_rows(value_rows(kv, next, task.kv_head), next_keys, head_dim);
    }

    const auto range_of = [&](std::int64_t g) { return group_range(scratch.rows, g * kTileGroup, count, base); };
    const auto issue_scores = [&](std::int64_t g, const KeyRange& range) {
      const std::int64_t first_tile = range.begin / kTileRows;
      const std::int64_t tiles = (range.end + kTileRows - 1) / kTileRows - first_tile;
      multiply_column(tiles, head / kTileDepth, scratch.keys + first_tile * kTileRows * head, head,
                      scratch.queries + g * kTileGroup * head / 2,
                      scratch.scores[g % 2] + first_tile * kTileRows * kTileGroup, false);
    };
    // Positions rise with rows: the groups that see something of this block follow each other.
    std::int64_t g = 0;
    KeyRange range = range_of(g);
    while (range.begin == range.end && ++g < groups) range = range_of(g);
    if (g < groups) issue_scores(g, range);
    while (g < groups) {
      KeyRange next_range;
      if (g + 1 < groups) next_range = range_of(g + 1);
      const bool more = next_range.begin != next_range.end;
      if (more) issue_scores(g + 1, next_range);
      order_memory();
      rows_ahead.advance();

      const RowState rows = rows_at(scratch.rows, g * kTileGroup);
      const std::int64_t group_rows = min_of(count - g * kTileGroup, kTileGroup);
      const bool last = base + kKeyBlock > rows.high[group_rows - 1];
      if (last) prefetch_rows(out, g * kTileGroup, group_rows);
      const std::int64_t k0 = range.begin / kTileDepth * kTileDepth;
      const std::int64_t k1 = round_up(range.end, kTileDepth);
      softmax_rows<TileProducts>(rule, rows, range, base, 0, scratch.scores[g % 2], scratch.factor, scratch.weights);
      zero_right<TileProducts>(scratch.weights, k0, range.begin, 0);
      zero_right<TileProducts>(scratch.weights, range.end, k1, 0);

      float* sums = scratch.sums + g * kTileGroup * head;
      // The group's first block of keys follows from its first row alone; sums start there.
      const bool first = base == rows.low[0] / kKeyBlock * kKeyBlock;
      if (!first) {
        const __m512 factor = _mm512_loadu_ps(scratch.factor);
        if (_mm512_cmp_ps_mask(factor, _mm512_set1_ps(1.0F), _CMP_NEQ_UQ) != 0) {
          for (std::int64_t d = 0; d < head; ++d) {
            _mm512_storeu_ps(sums + d * kTileGroup, _mm512_mul_ps(_mm512_loadu_ps(sums + d * kTileGroup), factor));
          }
        }
      }
      multiply_column(head / kTileRows, (k1 - k0) / kTileDepth, scratch.values + k0, kKeyBlock,
                      scratch.weights + k0 / 2 * kTileGroup, sums, !first);
      if (last) {
        order_memory();
        write_group(task, rows, out, sums, g * kTileGroup, group_rows, scratch.factor);
      }
      if (!more) break;
      range = next_range;
      ++g;
    }
  }
  end_tiles();
}

}  // namespace
}  // namespace quern
