// The backward pass of one attention task with AMX tiles. Included only by attention_amx.cpp; everything has internal
// linkage.
//
// For a chunk of 256 virtual rows and every block of 64 keys that it sees: strip by strip of 32 rows P^T from S^T = K Q^T
// and lse, dP^T = V dO^T, dS^T, and dQ^T += K^T dS^T; then dV += P^T dO and dK += dS^T Q over all strips at once, whose sums
// stay in tile registers.
#pragma once

#include "math/attention_amx_pack-inl.hpp"

namespace quern {
namespace {

/// Which of 16 rows keep each of a block's 8 columns.
HWY_INLINE void kept_rows(const DropoutBlock& block, std::int32_t threshold, std::uint16_t* kept) {
  const __m512i lowest = _mm512_set1_epi32(threshold);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i word = block.words[i].raw;
    kept[2 * i] = _mm512_cmpge_epi32_mask(_mm512_and_si512(word, _mm512_set1_epi32(0xFFFF)), lowest);
    kept[2 * i + 1] = _mm512_cmpge_epi32_mask(_mm512_srli_epi32(word, 16), lowest);
  }
}

/// P^T and dS^T of a strip's 32 rows over keys range.begin .. range.end-1: as left operands (p, ds: rows kTileChunkStride
/// apart) and dS^T also as right operand, columns in halves (pairs).
template <bool kMasked, bool kDropout>
HWY_INLINE void gradient_strip(const ScoreRule& rule, const RowState& rows, const KeyRange& range, std::int64_t base,
                               const float* const* scores, const float* const* dp, std::uint16_t* p, std::uint16_t* ds,
                               std::uint32_t* pairs, RowsAhead& rows_ahead) {
  const DF df;
  const GradientLanes<true, kMasked, kDropout> lanes[2] = {{rule, rows, 0}, {rule, rows, kTileGroup}};
  for (std::int64_t k = range.begin; k < range.end; k += 8) {
    rows_ahead.advance();
    std::uint16_t kept[2][8];
    if constexpr (kDropout) {
      const auto columns = static_cast<std::uint32_t>((base + k) / 8);
      for (int g = 0; g < 2; ++g) kept_rows(philox_block(*rule.mask, columns, lanes[g].mask_rows), rule.threshold, kept[g]);
    }
    // One key's 32 rows: P is stored, dS returned.
    const auto key = [&](std::int64_t index) HWY_ATTR {
      const std::int64_t at = (k + index) * kTileGroup;
      VF p0, p1, ds0, ds1;
      VF mask0 = hn::Zero(df);
      VF mask1 = hn::Zero(df);
      if constexpr (kDropout) {
        mask0 = VF{_mm512_maskz_mov_ps(kept[0][index], lanes[0].keep_factor.raw)};
        mask1 = VF{_mm512_maskz_mov_ps(kept[1][index], lanes[1].keep_factor.raw)};
      }
      lanes[0].element(hn::LoadU(df, scores[0] + at), hn::LoadU(df, dp[0] + at), base + k + index, mask0, p0, ds0);
      lanes[1].element(hn::LoadU(df, scores[1] + at), hn::LoadU(df, dp[1] + at), base + k + index, mask1, p1, ds1);
      _mm512_storeu_si512(p + (k + index) * kTileChunkStride, rounded(p0, p1));
      const __m512i both = rounded(ds0, ds1);
      _mm512_storeu_si512(ds + (k + index) * kTileChunkStride, both);
      return both;
    };
#pragma GCC unroll 4
    for (std::int64_t index = 0; index < 8; index += 2) {
      const __m512i even = key(index);
      const __m512i odd = key(index + 1);
      std::uint32_t* to = pairs + (k + index) / 2 * kTileGroup;
      _mm512_storeu_si512(to, _mm512_unpacklo_epi16(even, odd));
      _mm512_storeu_si512(to + kKeyBlock / 2 * kTileGroup, _mm512_unpackhi_epi16(even, odd));
    }
  }
}

/// Zeros for keys k0 .. k1-1 of a strip.
inline void zero_strip(std::int64_t k0, std::int64_t k1, std::uint16_t* p, std::uint16_t* ds, std::uint32_t* pairs) {
  const __m512i zero = _mm512_setzero_si512();
  for (std::int64_t k = k0; k < k1; ++k) {
    _mm512_storeu_si512(p + k * kTileChunkStride, zero);
    _mm512_storeu_si512(ds + k * kTileChunkStride, zero);
    _mm512_storeu_si512(pairs + (k / 2 + k % 2 * (kKeyBlock / 2)) * kTileGroup, zero);
  }
}

/// Keys of the block at `base` that the 32 rows at `c` see.
HWY_INLINE KeyRange strip_range(const RowState& rows, std::int64_t c, std::int64_t count, std::int64_t base) {
  KeyRange a = group_range(rows, c, count, base);
  const KeyRange b = group_range(rows, c + kTileGroup, count, base);
  const bool has_a = a.begin != a.end;
  const bool has_b = b.begin != b.end;
  if (!has_b) {
    if (has_a) a.masked = true;
    return a;
  }
  if (!has_a) return {b.begin, b.end, true};
  return {min_of(a.begin, b.begin), max_of(a.end, b.end), a.masked || b.masked || a.begin != b.begin || a.end != b.end};
}

void backward_tiles(const AttentionBackwardTask& task) {
  constexpr std::int64_t kStrip = 32;
  const AttentionShape& shape = *task.shape;
  const AttentionSequence& sequence = *task.sequence;
  const KvView& kv = sequence.kv;
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t head_dim = shape.head_dim;
  const std::int64_t head = padded_head(head_dim);
  const std::int64_t count = sequence.rows * group;
  const std::int64_t first_head = task.kv_head * group;
  const std::int64_t keys = kv.length;
  ScratchCutter cut{task.scratch};
  const TileBackwardScratch scratch = cut_tile_backward(cut, keys, head);
  const ScoreRule rule = score_rule(shape, *task.dropout);
  const auto rows_of = [&](const void* data, std::int64_t stride) {
    return VirtualRows<const bf16>{static_cast<const bf16*>(data) + sequence.first_row * stride + first_head * head_dim,
                                   stride, group, head_dim};
  };
  const VirtualRows<const bf16> q = rows_of(task.q, task.q_stride);
  const VirtualRows<const bf16> out = rows_of(task.out, task.out_stride);
  const VirtualRows<const bf16> dout = rows_of(task.dout, task.dout_stride);
  const VirtualRows<bf16> dq{static_cast<bf16*>(task.dq) + sequence.first_row * task.dq_stride + first_head * head_dim,
                             task.dq_stride, group, head_dim};
  bf16* dk = static_cast<bf16*>(task.dk) + sequence.first_row * task.dk_stride + task.kv_head * head_dim;
  bf16* dv = static_cast<bf16*>(task.dv) + sequence.first_row * task.dv_stride + task.kv_head * head_dim;
  const float* lse = task.lse + sequence.first_row * shape.heads + first_head;

  for (std::int64_t base = 0; base < keys; base += kKeyBlock) {
    const std::int64_t n = min_of(keys - base, kKeyBlock);
    const KvRows from = key_rows(kv, base, task.kv_head);
    pack_keys(from, n, head_dim, head, scratch.keys + base * head);
    pack_keys_transposed(scratch.keys + base * head, head, kKeyBlock, head, scratch.keys_t + base * head);
    pack_keys(value_rows(kv, base, task.kv_head), n, head_dim, head, scratch.values + base * head);
  }

  begin_tiles();
  std::int64_t touched = 0;  // keys whose dk and dv hold sums
  for (std::int64_t chunk = 0; chunk < count; chunk += kTileChunk) {
    const std::int64_t chunk_rows = min_of(count - chunk, kTileChunk);
    const std::int64_t strips = round_up(chunk_rows, kStrip) / kStrip;
    constexpr std::int64_t kPanel = kTileChunk / 2 * 32;
    const RowState& rows = scratch.rows;
    fill_positions(shape, sequence, *task.dropout, task.kv_head, 0, chunk, chunk_rows, strips * kStrip, rows);
    for (std::int64_t c = 0; c < strips * kStrip; c += kTileGroup) {
      const std::int64_t n = max_of(min_of(chunk_rows - c, kTileGroup), 0);
      const auto at = [&](const VirtualRows<const bf16>& x) {
        return [&x, first = chunk + c](std::int64_t r) { return x.at(first + r); };
      };
      pack_transposed(at(q), n, head_dim, scratch.q_t + c * head / 2);
      pack_transposed(at(dout), n, head_dim, scratch.dout_t + c * head / 2);
      dot_rows(at(dout), at(out), n, head_dim, rows.l + c);
      for (std::int64_t r = 0; r < kTileGroup; ++r) {
        const std::int64_t v = chunk + c + r;
        const std::int64_t place = group == 1 ? v * shape.heads : v / group * shape.heads + v % group;
        rows.m[c + r] = r < n ? lse[place] * kLog2E : 0.0F;
      }
      if (c % kStrip != 0) continue;
      pack_pairs(at(q), chunk_rows - c, head_dim, scratch.q + c / 2 * 32, kPanel);
      pack_pairs(at(dout), chunk_rows - c, head_dim, scratch.dout + c / 2 * 32, kPanel);
    }

    const std::int64_t first_base = rows.low[0] / kKeyBlock * kKeyBlock;
    const std::int64_t end = rows.high[chunk_rows - 1] + 1;
    RowsAhead rows_ahead;
    rows_ahead.add(dq, chunk, chunk_rows);
    if (chunk + kTileChunk < count) {
      for (const VirtualRows<const bf16>& x : {q, dout, out}) {
        rows_ahead.add(x, chunk + kTileChunk, min_of(count - chunk - kTileChunk, kTileChunk));
      }
    } else {
      rows_ahead.add(dk, task.dk_stride * 2, keys, head_dim * 2);
      rows_ahead.add(dv, task.dv_stride * 2, keys, head_dim * 2);
      if (task.ahead.sequence != nullptr) {
        const AttentionSequence& next = *task.ahead.sequence;
        const std::int64_t offset = task.ahead.kv_head * group * head_dim;
        rows_ahead.add(static_cast<const bf16*>(task.q) + next.first_row * task.q_stride + offset, task.q_stride * 2,
                       next.rows, group * head_dim * 2);
        rows_ahead.add(static_cast<const bf16*>(task.dout) + next.first_row * task.dout_stride + offset,
                       task.dout_stride * 2, next.rows, group * head_dim * 2);
        rows_ahead.add(static_cast<const bf16*>(task.out) + next.first_row * task.out_stride + offset, task.out_stride * 2,
                       next.rows, group * head_dim * 2);
        rows_ahead.add(next.kv, shape, 0, task.ahead.kv_head);
      }
    }
    std::int64_t steps = 0;
    for (std::int64_t s = 0; s < strips; ++s) {
      const std::int64_t last = min_of((s + 1) * kStrip, chunk_rows) - 1;
      steps += (rows.high[last] - rows.low[s * kStrip]) / 8 + 1;
    }
    rows_ahead.spread(steps);
    for (std::int64_t base = first_base; base < end; base += kKeyBlock) {
      const std::uint16_t* block_keys = scratch.keys + base * head;
      const std::uint16_t* block_values = scratch.values + base * head;
      // Strips that see the lower and the upper 32 keys; they follow each other.
      std::int64_t first_strip[2] = {strips, strips};
      std::int64_t end_strip[2] = {0, 0};
      const auto issue_scores = [&](std::int64_t s, const KeyRange& range) {
        const std::int64_t first_tile = range.begin / kTileRows;
        const std::int64_t tiles = (range.end + kTileRows - 1) / kTileRows - first_tile;
        for (std::int64_t g = 0; g < 2; ++g) {
          const std::int64_t operand = (s * kStrip + g * kTileGroup) * head / 2;
          const std::int64_t to = first_tile * kTileRows * kTileGroup;
          multiply_column(tiles, head / kTileDepth, block_keys + first_tile * kTileRows * head, head, scratch.q_t + operand,
                          scratch.scores[s % 2][g] + to, false);
          multiply_column(tiles, head / kTileDepth, block_values + first_tile * kTileRows * head, head,
                          scratch.dout_t + operand, scratch.dp[s % 2][g] + to, false);
        }
      };
      const auto range_of = [&](std::int64_t s) { return strip_range(rows, s * kStrip, chunk_rows, base); };
      std::int64_t s = 0;
      KeyRange range = range_of(s);
      while (range.begin == range.end && ++s < strips) range = range_of(s);
      if (s == strips) continue;
      issue_scores(s, range);
      while (true) {
        KeyRange next_range;
        if (s + 1 < strips) next_range = range_of(s + 1);
        const bool more = next_range.begin != next_range.end;
        if (more) issue_scores(s + 1, next_range);
        order_memory();

        const RowState strip_rows = rows_at(rows, s * kStrip);
        std::uint16_t* p = scratch.p + s * kStrip;
        std::uint16_t* ds = scratch.ds + s * kStrip;
        float* const* scores = scratch.scores[s % 2];
        float* const* dp = scratch.dp[s % 2];
        if (rule.in_place) {
          scores_in_place(rule, scores[0], kTileGroup, range.begin, range.end);
          scores_in_place(rule, scores[1], kTileGroup, range.begin, range.end);
        }
        if (range.masked) {
          if (rule.dropout) {
            gradient_strip<true, true>(rule, strip_rows, range, base, scores, dp, p, ds, scratch.ds_pairs, rows_ahead);
          } else {
            gradient_strip<true, false>(rule, strip_rows, range, base, scores, dp, p, ds, scratch.ds_pairs, rows_ahead);
          }
        } else if (rule.dropout) {
          gradient_strip<false, true>(rule, strip_rows, range, base, scores, dp, p, ds, scratch.ds_pairs, rows_ahead);
        } else {
          gradient_strip<false, false>(rule, strip_rows, range, base, scores, dp, p, ds, scratch.ds_pairs, rows_ahead);
        }
        const std::int64_t k0 = range.begin / kTileDepth * kTileDepth;
        const std::int64_t k1 = round_up(range.end, kTileDepth);
        zero_strip(k0, range.begin, p, ds, scratch.ds_pairs);
        zero_strip(range.end, k1, p, ds, scratch.ds_pairs);
        for (std::int64_t half = k0 / kTileDepth; half < k1 / kTileDepth; ++half) {
          first_strip[half] = min_of(first_strip[half], s);
          end_strip[half] = s + 1;
        }
        // A strip's first block of keys follows from its first row alone; sums start there.
        const bool first = base == strip_rows.low[0] / kKeyBlock * kKeyBlock;
        for (std::int64_t half = 0; half < 2; ++half) {
          multiply_column(head / kTileRows, (k1 - k0) / kTileDepth, scratch.keys_t + base * head + k0, kKeyBlock,
                          scratch.ds_pairs + (half * kKeyBlock + k0) / 2 * kTileGroup,
                          scratch.dq_t + (s * kStrip + half * kTileGroup) * head, !first);
        }
        if (!more) break;
        range = next_range;
        ++s;
      }

      for (std::int64_t half = 0; half < 2; ++half) {
        const std::int64_t key = base + half * kTileDepth;
        const std::int64_t first = first_strip[half];
        const std::int64_t chunks = end_strip[half] - first;
        if (chunks <= 0) continue;
        const bool accumulate = key < touched;
        const std::int64_t left = half * kTileDepth * kTileChunkStride + first * kStrip;
        for (std::int64_t d = 0; d < head; d += 32) {
          const std::int64_t right = d / 32 * kPanel + first * kStrip / 2 * 32;
          multiply_square(chunks, scratch.p + left, kTileChunkStride, scratch.dout + right, scratch.dv + key * head + d,
                          head, accumulate);
          multiply_square(chunks, scratch.ds + left, kTileChunkStride, scratch.q + right, scratch.dk + key * head + d, head,
                          accumulate);
        }
        if (!accumulate) touched = key + kTileDepth;
      }
    }
    order_memory();
    const __m512 scale = _mm512_set1_ps(shape.scale);
    for (std::int64_t s = 0; s < strips; ++s) {
      for (std::int64_t half = 0; half < 2; ++half) {
        const std::int64_t first = chunk + s * kStrip;
        write_transposed(
            scratch.dq_t + (s * kStrip + half * kTileGroup) * head, scale, head_dim,
            [&](std::int64_t n) { return dq.at(first + half_column(half, n)); },
            [&](std::int64_t n) { return first + half_column(half, n) < count; });
      }
    }
  }
  end_tiles();

  for (std::int64_t k = 0; k < sequence.rows; ++k) {
    write_halves(scratch.dk + k * head, head_dim, shape.scale, dk + k * task.dk_stride);
    write_halves(scratch.dv + k * head, head_dim, 1.0F, dv + k * task.dv_stride);
  }
}

}  // namespace
}  // namespace quern
