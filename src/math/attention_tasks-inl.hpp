// The forward and backward pass of one attention task, written once; `Products` multiplies blocks.
//
// Forward, for a block of keys packed once and every block of 64 virtual rows: S^T = K Q^T; one step of online softmax;
// O^T = O^T * factor + V^T P^T. Backward (Dao 2023, algorithm 2), for a block of virtual rows and every block of keys it
// sees: P^T from S^T and lse; dP^T = V dO^T; dS = P (dP - D), D = rowsum(dO O); dV += P^T dO; dK += dS^T Q;
// dQ^T += K^T dS^T. D stands for the softmax's Jacobian: dS_i = P_i (dP_i - sum_j P_j dP_j), and sum_j P_j dP_j = dO . O
// also with dropout, since both O and dP carry its mask.
#pragma once

#include "math/attention_softmax-inl.hpp"

namespace quern {
namespace {

/// Keys (or values) of positions base .. of one head.
HWY_INLINE KvRows kv_rows(const KvView& kv, const void* const* pages, std::int64_t offset, std::int64_t base,
                          std::int64_t kv_head) {
  const KvFormat format = kv_format(kv.type);
  const std::int64_t element = base % kv.page_tokens * kv.token_stride + kv_head * kv.head_stride;
  return {static_cast<const std::byte*>(pages[base / kv.page_tokens]) + offset +
              element / format.block_elements * format.block_bytes,
          kv.token_stride / format.block_elements * format.block_bytes, kv.type};
}
HWY_INLINE KvRows key_rows(const KvView& kv, std::int64_t base, std::int64_t kv_head) {
  return kv_rows(kv, kv.key_pages, kv.key_offset, base, kv_head);
}
HWY_INLINE KvRows value_rows(const KvView& kv, std::int64_t base, std::int64_t kv_head) {
  return kv_rows(kv, kv.value_pages, kv.value_offset, base, kv_head);
}

/// What virtual rows first .. of a task see, for `padded` rows of which `count` exist.
HWY_INLINE void fill_positions(const AttentionShape& shape, const AttentionSequence& sequence, const DropoutMask& mask,
                               std::int64_t kv_head, std::int64_t first_query, std::int64_t first, std::int64_t count,
                               std::int64_t padded, const RowState& rows) {
  const std::int64_t group = shape.heads / shape.kv_heads;
  std::int64_t query = first_query + first / group;
  std::int64_t member = first % group;
  for (std::int64_t r = 0; r < padded; ++r) {
    const std::int64_t position = sequence.first_position + query;
    const std::int64_t head = kv_head * group + member;
    rows.low[r] = static_cast<std::int32_t>(shape.window > 0 ? max_of(0, position - shape.window + 1) : 0);
    rows.high[r] = r < count ? static_cast<std::int32_t>(min_of(position, sequence.kv.length - 1)) : -1;
    rows.mask_row[r] =
        (mask.first_row + static_cast<std::uint32_t>(sequence.first_row + query)) * static_cast<std::uint32_t>(shape.heads) +
        static_cast<std::uint32_t>(head);
    if (++member == group) {
      member = 0;
      ++query;
    }
  }
}

/// Asks for virtual rows first .. first+count-1: a group's heads lie together.
template <class T>
HWY_INLINE void prefetch_rows(const VirtualRows<T>& rows, std::int64_t first, std::int64_t count) {
  if (count <= 0) return;
  prefetch_rows(static_cast<const T*>(rows.at(first / rows.group * rows.group)), rows.stride,
                round_up(count, rows.group) / rows.group, rows.group * rows.head_dim);
}

HWY_INLINE void prefetch_rows(const KvRows& rows, std::int64_t count, std::int64_t head_dim) {
  const KvFormat format = kv_format(rows.type);
  prefetch_rows(rows.data, rows.stride, count, head_dim / format.block_elements * format.block_bytes);
}

/// Rows that are fetched into the second-level cache little by little, while something else is computed. Rows of one head
/// lie far apart, which hides them from hardware prefetchers.
class RowsAhead {
 public:
  /// At most this many rows of each kind: what one task of training at moderate lengths reads.
  static constexpr std::int64_t kRows = 256;

  void add(const void* data, std::int64_t stride_bytes, std::int64_t rows, std::int64_t bytes) {
    if (rows <= 0) return;
    kinds_[count_++] = {static_cast<const std::byte*>(data), stride_bytes, min_of(rows, kRows), bytes};
    longest_ = max_of(longest_, min_of(rows, kRows));
  }
  /// Virtual rows first .. first+count-1: a group's heads lie together.
  template <class T>
  void add(const VirtualRows<T>& rows, std::int64_t first, std::int64_t count) {
    add(rows.at(first / rows.group * rows.group), rows.stride * static_cast<std::int64_t>(sizeof(T)),
        round_up(count, rows.group) / rows.group, rows.group * rows.head_dim * static_cast<std::int64_t>(sizeof(T)));
  }
  /// Keys and values that position `position` sees first, within one page.
  void add(const KvView& kv, const AttentionShape& shape, std::int64_t position, std::int64_t kv_head) {
    const std::int64_t base = shape.window > 0 ? max_of(0, position - shape.window + 1) / kKeyBlock * kKeyBlock : 0;
    const std::int64_t rows = min_of(kv.length - base, kv.page_tokens - base % kv.page_tokens);
    const KvFormat format = kv_format(kv.type);
    const std::int64_t bytes = shape.head_dim / format.block_elements * format.block_bytes;
    for (const KvRows& from : {key_rows(kv, base, kv_head), value_rows(kv, base, kv_head)}) {
      add(from.data, from.stride, rows, bytes);
    }
  }
  /// Spreads what was added over this many calls of advance().
  void spread(std::int64_t steps) { parts_per_step_ = (longest_ * kParts + steps - 1) / max_of(steps, 1); }
  HWY_INLINE void advance() {
    parts_ += parts_per_step_;
    const std::int64_t end = min_of(parts_ / kParts, longest_);
    for (; next_ < end; ++next_) {
      for (int i = 0; i < count_; ++i) {
        const Kind& kind = kinds_[i];
        if (next_ >= kind.rows) continue;
        const std::byte* row = kind.data + next_ * kind.stride;
        for (std::int64_t b = 0; b < kind.bytes; b += 64) __builtin_prefetch(row + b, 0, 2);
      }
    }
  }

 private:
  struct Kind {
    const std::byte* data;
    std::int64_t stride;
    std::int64_t rows;
    std::int64_t bytes;
  };
  Kind kinds_[8];
  int count_ = 0;
  std::int64_t longest_ = 0;
  static constexpr std::int64_t kParts = 256;  ///< of a row
  std::int64_t parts_per_step_ = 0;
  std::int64_t parts_ = 0;
  std::int64_t next_ = 0;
};

HWY_INLINE RowState rows_at(const RowState& rows, std::int64_t offset) {
  return {rows.m + offset, rows.l + offset, rows.low + offset, rows.high + offset, rows.mask_row + offset};
}

/// sums^T [head, row] *= factor [row], where any factor of the 16 rows differs from 1.
inline void rescale(float* sums, const float* factor, std::int64_t head, std::int64_t columns) {
  const DF df;
  for (std::int64_t c = 0; c < columns; c += kLanes) {
    const VF f = hn::LoadU(df, factor + c);
    if (hn::AllTrue(df, hn::Eq(f, hn::Set(df, 1.0F)))) continue;
    for (std::int64_t d = 0; d < head; ++d) {
      float* x = sums + d * kRowBlock + c;
      hn::StoreU(hn::Mul(hn::LoadU(df, x), f), df, x);
    }
  }
}

/// Ends the online softmax of `count` rows (a multiple of 16): rows.m becomes the natural log-sum-exp, factor what the sums
/// must be multiplied by (1 / l, or 0 where a row saw no key). With `sinks`, factor holds their logits (powers of two) on
/// entry.
inline void finish_rows(const RowState& rows, std::int64_t count, bool sinks, float* factor) {
  const DF df;
  for (std::int64_t c = 0; c < count; c += kLanes) {
    VF m = hn::LoadU(df, rows.m + c);
    VF l = hn::LoadU(df, rows.l + c);
    VF correction = hn::Set(df, 1.0F);
    if (sinks) {
      const VF sink = hn::LoadU(df, factor + c);
      const VF top = hn::Max(m, sink);
      correction = exp2_of<false>(hn::Sub(m, top));
      l = hn::MulAdd(l, correction, exp2_of<false>(hn::Sub(sink, top)));
      m = top;
    }
    const VF inverse = hn::IfThenElseZero(hn::Gt(l, hn::Zero(df)), hn::Div(correction, l));
    hn::StoreU(inverse, df, factor + c);
    hn::StoreU(hn::MulAdd(m, hn::Set(df, kLn2), simd::log_f32(df, l)), df, rows.m + c);
  }
}

/// Writes out and lse of virtual rows first_row .. of a task, whose sums^T are complete.
template <class Products>
void write_block(const AttentionForwardTask& task, const RowState& rows, const ForwardScratch& scratch, const float* sums,
                 std::int64_t first_row, std::int64_t count) {
  using T = typename Products::Element;
  const AttentionShape& shape = *task.shape;
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t head = padded_head(shape.head_dim);
  const std::int64_t first_head = task.kv_head * group;
  const std::int64_t batch_row = task.sequence->first_row + task.first_query;
  std::int64_t query = first_row / group;
  std::int64_t member = first_row % group;
  const auto next_row = [&] {
    if (++member == group) {
      member = 0;
      ++query;
    }
  };
  if (shape.sinks != nullptr) {
    for (std::int64_t r = 0; r < kRowBlock; ++r, next_row()) scratch.factor[r] = shape.sinks[first_head + member] * kLog2E;
    query = first_row / group;
    member = first_row % group;
  }
  finish_rows(rows, kRowBlock, shape.sinks != nullptr, scratch.factor);
  transpose32(sums, kRowBlock, head, round_up(count, 4), scratch.staging, head);
  for (std::int64_t r = 0; r < count; ++r, next_row()) {
    const std::int64_t h = first_head + member;
    T* to = static_cast<T*>(task.out) + (batch_row + query) * task.out_stride + h * shape.head_dim;
    write_row(scratch.staging + r * head, shape.head_dim, scratch.factor[r], to);
    if (task.lse != nullptr) task.lse[(batch_row + query) * shape.heads + h] = rows.m[r];
  }
}

template <class Products>
void forward_task(const AttentionForwardTask& task) {
  using T = typename Products::Element;
  const AttentionShape& shape = *task.shape;
  const AttentionSequence& sequence = *task.sequence;
  const KvView& kv = sequence.kv;
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t head_dim = shape.head_dim;
  const std::int64_t head = padded_head(head_dim);
  const std::int64_t count = task.queries * group;
  const std::int64_t blocks = round_up(count, kRowBlock) / kRowBlock;
  const std::int64_t tile = kRowBlock * head;
  const std::int64_t batch_row = sequence.first_row + task.first_query;
  const std::int64_t first_head = task.kv_head * group;
  ScratchCutter cut{task.scratch};
  const ForwardScratch scratch = cut_forward(cut, forward_task_rows(group), head);
  const ScoreRule rule = score_rule(shape, *task.dropout);
  const VirtualRows<const T> q{static_cast<const T*>(task.q) + batch_row * task.q_stride + first_head * head_dim,
                               task.q_stride, group, head_dim};
  const VirtualRows<T> out{static_cast<T*>(task.out) + batch_row * task.out_stride + first_head * head_dim, task.out_stride,
                           group, head_dim};

  fill_positions(shape, sequence, *task.dropout, task.kv_head, task.first_query, 0, count, blocks * kRowBlock, scratch.rows);
  for (std::int64_t r = 0; r < blocks * kRowBlock; ++r) {
    scratch.rows.m[r] = kNoMaximum;
    scratch.rows.l[r] = 0.0F;
  }

  const std::int64_t first_base = scratch.rows.low[0] / kKeyBlock * kKeyBlock;
  for (std::int64_t base = first_base; base <= scratch.rows.high[count - 1]; base += kKeyBlock) {
    const std::int64_t keys = min_of(kv.length - base, kKeyBlock);
    Products::pack_keys(key_rows(kv, base, task.kv_head), keys, head_dim, head, scratch.keys);
    Products::pack_keys(value_rows(kv, base, task.kv_head), keys, head_dim, head, scratch.values);
    const std::int64_t next = base + kKeyBlock;
    if (next <= scratch.rows.high[count - 1]) {
      const std::int64_t next_keys = min_of(kv.length - next, kKeyBlock);
      prefetch_rows(key_rows(kv, next, task.kv_head), next_keys, head_dim);
      prefetch_rows(value_rows(kv, next, task.kv_head), next_keys, head_dim);
    }
    for (std::int64_t b = 0; b < blocks; ++b) {
      const RowState rows = rows_at(scratch.rows, b * kRowBlock);
      const BlockRanges ranges = block_ranges(rows, min_of(count - b * kRowBlock, kRowBlock), base);
      if (ranges.all.begin == ranges.all.end) continue;
      const std::int64_t block_rows = min_of(count - b * kRowBlock, kRowBlock);
      float* queries = scratch.queries + b * tile;
      if (base == rows.low[0] / kKeyBlock * kKeyBlock) {
        Products::pack_rows(q, b * kRowBlock, block_rows, head, scratch.staging, queries);
        prefetch_rows(q, (b + 1) * kRowBlock, min_of(count - (b + 1) * kRowBlock, kRowBlock));
      }
      const bool last = base + kKeyBlock > rows.high[block_rows - 1];
      if (last) prefetch_rows(out, b * kRowBlock, block_rows);
      float* sums = scratch.sums + b * tile;
      for (int s = 0; s < 2; ++s) {
        if (ranges.strip[s].begin == ranges.strip[s].end) continue;
        Products::scores(scratch.keys, queries, scratch.scores, head, ranges.strip[s].begin, ranges.strip[s].end, s * 32,
                         ranges.columns[s]);
      }
      softmax_block<Products>(rule, rows, ranges, base, scratch.scores, scratch.factor, scratch.weights);
      for (int s = 0; s < 2; ++s) {
        if (ranges.strip[s].begin == ranges.strip[s].end) continue;
        // The strip's first block of keys follows from its first row alone; sums start there.
        const bool first = base == rows.low[s * 32] / kKeyBlock * kKeyBlock;
        if (!first) rescale(sums + s * 32, scratch.factor + s * 32, head, ranges.columns[s]);
        Products::add_values(scratch.values, scratch.weights, sums, head, ranges.strip[s].begin, ranges.strip[s].end, s * 32,
                             ranges.columns[s], !first);
      }
      if (last) {
        write_block<Products>(task, rows, scratch, sums, b * kRowBlock, block_rows);
      }
    }
  }
}

template <class Products>
void backward_task(const AttentionBackwardTask& task) {
  using T = typename Products::Element;
  const AttentionShape& shape = *task.shape;
  const AttentionSequence& sequence = *task.sequence;
  const KvView& kv = sequence.kv;
  const std::int64_t group = shape.heads / shape.kv_heads;
  const std::int64_t head_dim = shape.head_dim;
  const std::int64_t head = padded_head(head_dim);
  const std::int64_t count = sequence.rows * group;
  const std::int64_t tile = kRowBlock * head;
  const std::int64_t first_head = task.kv_head * group;
  const std::int64_t keys = kv.length;
  const std::int64_t key_blocks = round_up(keys, kKeyBlock) / kKeyBlock;
  ScratchCutter cut{task.scratch};
  BackwardScratch scratch = cut_backward(cut, keys, head);
  const ScoreRule rule = score_rule(shape, *task.dropout);
  const auto rows_of = [&](const void* data, std::int64_t stride) {
    return VirtualRows<const T>{static_cast<const T*>(data) + sequence.first_row * stride + first_head * head_dim, stride,
                                group, head_dim};
  };
  const VirtualRows<const T> q = rows_of(task.q, task.q_stride);
  const VirtualRows<const T> out = rows_of(task.out, task.out_stride);
  const VirtualRows<const T> dout = rows_of(task.dout, task.dout_stride);
  const VirtualRows<T> dq{static_cast<T*>(task.dq) + sequence.first_row * task.dq_stride + first_head * head_dim,
                          task.dq_stride, group, head_dim};
  // Rows of one head lie far apart, which hides them from hardware prefetchers; a block's arithmetic hides the next one's.
  const auto prefetch_block = [&](std::int64_t first) {
    const std::int64_t rows = min_of(count - first, kRowBlock);
    prefetch_rows(q, first, rows);
    prefetch_rows(dout, first, rows);
    prefetch_rows(out, first, rows);
    prefetch_rows(dq, first, rows);
  };

  for (std::int64_t j = 0; j < key_blocks; ++j) {
    const std::int64_t base = j * kKeyBlock;
    const std::int64_t n = min_of(keys - base, kKeyBlock);
    Products::pack_keys(key_rows(kv, base, task.kv_head), n, head_dim, head, scratch.keys + j * tile);
    Products::pack_keys(value_rows(kv, base, task.kv_head), n, head_dim, head, scratch.values + j * tile);
  }
  for (std::int64_t i = 0; i < key_blocks * tile; ++i) scratch.dk[i] = 0.0F;
  for (std::int64_t i = 0; i < key_blocks * tile; ++i) scratch.dv[i] = 0.0F;

  for (std::int64_t first = 0; first < count; first += kRowBlock) {
    const std::int64_t block_rows = min_of(count - first, kRowBlock);
    const RowState& rows = scratch.rows;
    fill_positions(shape, sequence, *task.dropout, task.kv_head, 0, first, block_rows, kRowBlock, rows);
    Products::pack_rows(q, first, block_rows, head, scratch.q, scratch.q_t);
    Products::pack_rows(dout, first, block_rows, head, scratch.dout, scratch.dout_t);
    for (std::int64_t r = 0; r < kRowBlock; ++r) {
      const std::int64_t v = first + r;
      const bool exists = r < block_rows;
      rows.m[r] = exists ? task.lse[(sequence.first_row + v / group) * shape.heads + first_head + v % group] * kLog2E : 0.0F;
      rows.l[r] = exists ? dot_row(dout.at(v), out.at(v), head_dim) : 0.0F;
    }
    prefetch_block(first + kRowBlock);
    const std::int64_t first_base = rows.low[0] / kKeyBlock * kKeyBlock;
    for (std::int64_t base = first_base; base <= rows.high[block_rows - 1]; base += kKeyBlock) {
      const BlockRanges ranges = block_ranges(rows, block_rows, base);
      if (ranges.all.begin == ranges.all.end) continue;
      const std::int64_t offset = base * head;
      for (int s = 0; s < 2; ++s) {
        const KeyRange& strip = ranges.strip[s];
        if (strip.begin == strip.end) continue;
        Products::scores(scratch.keys + offset, scratch.q_t, scratch.scores, head, strip.begin, strip.end, s * 32,
                         ranges.columns[s]);
        Products::scores(scratch.values + offset, scratch.dout_t, scratch.dp, head, strip.begin, strip.end, s * 32,
                         ranges.columns[s]);
      }
      gradient_block<Products>(rule, rows, ranges, base, scratch.scores, scratch.dp, scratch.p, scratch.ds);
      const KeyRange& all = ranges.all;
      const std::int64_t used_rows = round_up(block_rows, 32);
      Products::add_rows(scratch.p, scratch.dout, scratch.dv + offset, head, all.begin, all.end, used_rows);
      Products::add_rows(scratch.ds, scratch.q, scratch.dk + offset, head, all.begin, all.end, used_rows);
      Products::add_values(scratch.keys + offset, scratch.ds, scratch.dq_t, head, all.begin, all.end, 0, used_rows,
                           base != first_base);
    }
    transpose32(scratch.dq_t, kRowBlock, head, round_up(block_rows, 4), scratch.staging, head);
    for (std::int64_t r = 0; r < block_rows; ++r) {
      write_row(scratch.staging + r * head, head_dim, shape.scale, dq.at(first + r));
    }
  }

  T* dk = static_cast<T*>(task.dk) + sequence.first_row * task.dk_stride + task.kv_head * head_dim;
  T* dv = static_cast<T*>(task.dv) + sequence.first_row * task.dv_stride + task.kv_head * head_dim;
  for (std::int64_t k = 0; k < sequence.rows; ++k) {
    write_row(scratch.dk + k * head, head_dim, shape.scale, dk + k * task.dk_stride);
    write_row(scratch.dv + k * head, head_dim, 1.0F, dv + k * task.dv_stride);
  }
}

}  // namespace
}  // namespace quern
