// Element-wise work on one block of scores: which keys a row sees, online softmax, and the gradient of the scores.
//
// Scores are kept transposed, [64 keys, 64 virtual rows]: lanes are rows, so that maxima, sums, masks and the dropout
// generator need nothing across lanes and a row's arithmetic is the same in every lane. Everything is in powers of two:
// t = score * scale * log2(e).
#pragma once

#include "math/attention_products-inl.hpp"

namespace quern {
namespace {

/// Rows whose key range is found together.
constexpr std::int64_t kRowGroup = 16;

/// The running maximum before any key. Far below every score, yet finite, so that differences need no special case.
constexpr float kNoMaximum = -1e30F;

/// Keys of a block that some row of a group or strip sees.
struct KeyRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;  ///< begin == end: none
  bool masked = false;   ///< some row does not see all of them
};

/// Range, in whole units of 8 keys, of the 16 rows at `c`. `count`: valid rows of the block. Positions rise with rows.
HWY_INLINE KeyRange group_range(const RowState& rows, std::int64_t c, std::int64_t count, std::int64_t base) {
  if (c >= count) return {};
  const std::int64_t last = min_of(c + kRowGroup, count) - 1;
  KeyRange range;
  range.begin = max_of(rows.low[c] - base, 0) / 8 * 8;
  range.end = round_up(min_of(rows.high[last] - base + 1, kKeyBlock), 8);
  if (range.begin >= range.end) return {};
  range.masked = c + kRowGroup > count || rows.high[c] < base + range.end - 1 || rows.low[last] > base + range.begin;
  return range;
}

/// What one key block means to one block of rows.
struct BlockRanges {
  KeyRange group[kRowBlock / kRowGroup];
  KeyRange strip[2];        ///< the 32 rows that products take together; whole units of 32 keys
  std::int64_t columns[2];  ///< rows of the strip in use, in whole groups
  KeyRange all;
};

HWY_INLINE BlockRanges block_ranges(const RowState& rows, std::int64_t count, std::int64_t base) {
  BlockRanges ranges;
  ranges.all = {kKeyBlock, 0, false};
  for (int s = 0; s < 2; ++s) {
    KeyRange& strip = ranges.strip[s];
    strip = {kKeyBlock, 0, false};
    for (int g = 2 * s; g < 2 * s + 2; ++g) {
      ranges.group[g] = group_range(rows, g * kRowGroup, count, base);
      if (ranges.group[g].begin == ranges.group[g].end) continue;
      strip.begin = min_of(strip.begin, ranges.group[g].begin / 32 * 32);
      strip.end = max_of(strip.end, round_up(ranges.group[g].end, 32));
    }
    ranges.columns[s] = max_of(min_of(round_up(count - s * 32, kRowGroup), 32), 0);
    if (strip.begin >= strip.end) {
      strip = {};
      continue;
    }
    ranges.all.begin = min_of(ranges.all.begin, strip.begin);
    ranges.all.end = max_of(ranges.all.end, strip.end);
  }
  if (ranges.all.begin >= ranges.all.end) ranges.all = {};
  return ranges;
}

/// Constants of a task's element-wise work.
struct ScoreRule {
  float factor = 0.0F;     ///< stored score -> t
  float cap = 0.0F;        ///< soft cap in units of t; 0: none
  float cap_input = 0.0F;  ///< raw score -> argument of tanh
  bool in_place = false;   ///< scores are turned into t first (soft cap, or a scale that is not positive)
  bool dropout = false;
  std::int32_t threshold = 0;
  float keep_factor = 1.0F;
  const DropoutMask* mask = nullptr;
};

inline ScoreRule score_rule(const AttentionShape& shape, const DropoutMask& mask) {
  ScoreRule rule;
  rule.factor = shape.scale * kLog2E;
  if (shape.soft_cap > 0.0F) {
    rule.cap = shape.soft_cap * kLog2E;
    rule.cap_input = shape.scale / shape.soft_cap;
    rule.in_place = true;
  } else if (!(rule.factor > 1e-6F)) {
    rule.in_place = true;
  }
  rule.mask = &mask;
  if (mask.probability > 0.0F) {
    rule.threshold = static_cast<std::int32_t>(static_cast<double>(mask.probability) * 65536.0 + 0.5);
    rule.dropout = rule.threshold > 0;
    rule.keep_factor = rule.threshold >= 65536 ? 0.0F : 65536.0F / static_cast<float>(65536 - rule.threshold);
  }
  return rule;
}

/// Turns raw scores of kLanes rows into t, where that takes more than one multiplication.
HWY_INLINE void scores_in_place(const ScoreRule& rule, float* scores, std::int64_t stride, std::int64_t k0,
                                std::int64_t k1) {
  const DF df;
  for (std::int64_t k = k0; k < k1; ++k) {
    float* s = scores + k * stride;
    const VF raw = hn::LoadU(df, s);
    const VF t = rule.cap > 0.0F
                     ? hn::Mul(simd::tanh_f32(df, hn::Mul(raw, hn::Set(df, rule.cap_input))), hn::Set(df, rule.cap))
                     : hn::Mul(raw, hn::Set(df, rule.factor));
    hn::StoreU(t, df, s);
  }
}

/// Lanes that see key position `key`.
HWY_INLINE auto visible(VI low, VI high, std::int64_t key) {
  const VI position = hn::Set(DI(), static_cast<std::int32_t>(key));
  return hn::RebindMask(DF(), hn::And(hn::Not(hn::Lt(position, low)), hn::Not(hn::Gt(position, high))));
}

template <class Products>
HWY_INLINE void zero_right(typename Products::Operand* weights, std::int64_t k0, std::int64_t k1, std::int64_t c) {
  const VF zero = hn::Zero(DF());
  for (std::int64_t k = k0; k < k1; k += 2) Products::store_right(weights, k, c, zero, zero);
}
/// A row's maximum is raised only where a block's exceeds it by this many powers of two, so that sums seldom need rescaling.
/// Terms may reach 2^kRaise, far from overflow; the first block's largest is 1.
constexpr float kRaise = 8.0F;

/// One step of online softmax for the kLanes rows at `c` over keys range.begin .. range.end-1 of the block at `base`:
/// raises m, rescales l, writes unnormalized probabilities (after dropout) as right operand and the factor by which the
/// rows' sums so far must be multiplied. Sums run over keys mod 4, so they depend on positions alone.
template <class Products, bool kMasked, bool kDropout>
HWY_INLINE void softmax_step(const ScoreRule& rule, const RowState& rows, const KeyRange& range, std::int64_t base,
                             std::int64_t c, const float* scores, float* factor_out, typename Products::Operand* weights) {
  const DF df;
  const VF factor = hn::Set(df, rule.in_place ? 1.0F : rule.factor);
  const VI low = hn::LoadU(DI(), rows.low + c);
  const VI high = hn::LoadU(DI(), rows.high + c);
  const VI threshold = hn::Set(DI(), rule.threshold);
  const VF keep_factor = hn::Set(df, rule.keep_factor);
  const VF lowest = hn::Set(df, -3.0e38F);
  VU mask_rows = hn::Zero(DU());
  if constexpr (kDropout) mask_rows = hn::LoadU(DU(), rows.mask_row + c);

  VF top[4] = {lowest, lowest, lowest, lowest};
  for (std::int64_t k = range.begin; k < range.end; k += 4) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      VF s = hn::LoadU(df, scores + (k + j) * Products::kScoreStride + c);
      if constexpr (kMasked) s = hn::IfThenElse(visible(low, high, base + k + j), s, lowest);
      top[j] = hn::Max(top[j], s);
    }
  }
  const VF raw_top = hn::Max(hn::Max(top[0], top[1]), hn::Max(top[2], top[3]));
  const VF old_m = hn::LoadU(df, rows.m + c);
  // A row that sees nothing here must keep its maximum even where `factor` is so small that lowest * factor is not low.
  const VF block_top = hn::IfThenElse(hn::Gt(raw_top, lowest), hn::Mul(raw_top, factor), lowest);
  const VF m = hn::IfThenElse(hn::Gt(block_top, hn::Add(old_m, hn::Set(df, kRaise))), block_top, old_m);
  const VF rescale = exp2_of<false>(hn::Sub(old_m, m));
  hn::StoreU(m, df, rows.m + c);
  hn::StoreU(rescale, df, factor_out + c);

  VF sum[4] = {hn::Zero(df), hn::Zero(df), hn::Zero(df), hn::Zero(df)};
  const auto weight = [&](std::int64_t k) HWY_ATTR {
    const VF t = hn::MulSub(hn::LoadU(df, scores + k * Products::kScoreStride + c), factor, m);
    VF p = exp2_of<Products::kRound>(t);
    if constexpr (kMasked) p = hn::IfThenElseZero(visible(low, high, base + k), p);
    return p;
  };
  for (std::int64_t k = range.begin; k < range.end; k += 8) {
    DropoutBlock block;
    if constexpr (kDropout) block = philox_block(*rule.mask, static_cast<std::uint32_t>((base + k) / 8), mask_rows);
    const auto pair = [&]<int kIndex>() HWY_ATTR {
      VF p0 = weight(k + kIndex);
      VF p1 = weight(k + kIndex + 1);
      sum[kIndex % 4] = hn::Add(sum[kIndex % 4], p0);
      sum[kIndex % 4 + 1] = hn::Add(sum[kIndex % 4 + 1], p1);
      if constexpr (kDropout) {
        p0 = keep<kIndex>(block, threshold, hn::Mul(p0, keep_factor));
        p1 = keep<kIndex + 1>(block, threshold, hn::Mul(p1, keep_factor));
      }
      Products::store_right(weights, k + kIndex, c, p0, p1);
    };
    pair.template operator()<0>();
    pair.template operator()<2>();
    pair.template operator()<4>();
    pair.template operator()<6>();
  }
  const VF total = hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]));
  hn::StoreU(hn::MulAdd(hn::LoadU(df, rows.l + c), rescale, total), df, rows.l + c);
}

/// softmax_step for a group's kLanes rows at `c`.
template <class Products>
HWY_INLINE void softmax_rows(const ScoreRule& rule, const RowState& rows, const KeyRange& range, std::int64_t base,
                             std::int64_t c, float* scores, float* factor, typename Products::Operand* weights) {
  if (rule.in_place) scores_in_place(rule, scores + c, Products::kScoreStride, range.begin, range.end);
  if (range.masked) {
    if (rule.dropout) {
      softmax_step<Products, true, true>(rule, rows, range, base, c, scores, factor, weights);
    } else {
      softmax_step<Products, true, false>(rule, rows, range, base, c, scores, factor, weights);
    }
  } else if (rule.dropout) {
    softmax_step<Products, false, true>(rule, rows, range, base, c, scores, factor, weights);
  } else {
    softmax_step<Products, false, false>(rule, rows, range, base, c, scores, factor, weights);
  }
}

/// softmax_step for every row of the block; `weights` are zero in the rest of a strip's range.
template <class Products>
inline void softmax_block(const ScoreRule& rule, const RowState& rows, const BlockRanges& ranges, std::int64_t base,
                          float* scores, float* factor, typename Products::Operand* weights) {
  for (std::int64_t c = 0; c < kRowBlock; c += kLanes) {
    const KeyRange& strip = ranges.strip[c / 32];
    if (strip.begin == strip.end || c % 32 >= ranges.columns[c / 32]) continue;
    const KeyRange& range = ranges.group[c / kRowGroup];
    if (range.begin == range.end) {
      hn::StoreU(hn::Set(DF(), 1.0F), DF(), factor + c);
      zero_right<Products>(weights, strip.begin, strip.end, c);
      continue;
    }
    softmax_rows<Products>(rule, rows, range, base, c, scores, factor, weights);
    zero_right<Products>(weights, strip.begin, range.begin, c);
    zero_right<Products>(weights, range.end, strip.end, c);
  }
}

/// For kLanes rows: P = 2^(t - lse), with dropout mask M: weights for dv = P M, and dS = P (M dP - D) [times the soft cap's
/// derivative 1 - tanh^2]. rows.m holds lse (powers of two), rows.l holds D. The factor `scale` of dS is applied to the
/// finished dq and dk.
template <bool kRound, bool kMasked, bool kDropout>
struct GradientLanes {
  VF factor, lse, d, keep_factor, inverse_cap;
  VI low, high, threshold;
  VU mask_rows;
  bool capped;

  HWY_INLINE GradientLanes(const ScoreRule& rule, const RowState& rows, std::int64_t c) {
    const DF df;
    factor = hn::Set(df, rule.in_place ? 1.0F : rule.factor);
    lse = hn::LoadU(df, rows.m + c);
    d = hn::LoadU(df, rows.l + c);
    keep_factor = hn::Set(df, rule.keep_factor);
    capped = rule.cap > 0.0F;
    inverse_cap = hn::Set(df, capped ? 1.0F / rule.cap : 0.0F);
    low = hn::LoadU(DI(), rows.low + c);
    high = hn::LoadU(DI(), rows.high + c);
    threshold = hn::Set(DI(), rule.threshold);
    mask_rows = hn::LoadU(DU(), rows.mask_row + c);
  }

  /// Score s and gradient dP of key position `key`; with dropout, `mask` is keep_factor or 0.
  HWY_INLINE void element(VF s, VF gradient, std::int64_t key, VF mask, VF& p, VF& ds) const {
    const DF df;
    VF weight = exp2_of<kRound>(hn::MulSub(s, factor, lse));
    if constexpr (kMasked) weight = hn::IfThenElseZero(visible(low, high, key), weight);
    p = weight;
    if constexpr (kDropout) {
      gradient = hn::Mul(gradient, mask);
      p = hn::Mul(weight, mask);
    }
    ds = hn::Mul(weight, hn::Sub(gradient, d));
    if (capped) {
      const VF tanh = hn::Mul(s, inverse_cap);
      ds = hn::Mul(ds, hn::NegMulAdd(tanh, tanh, hn::Set(df, 1.0F)));
    }
  }
};

/// The gradients of kLanes rows at `c`, as operands.
template <class Products, bool kMasked, bool kDropout>
HWY_INLINE void gradient_step(const ScoreRule& rule, const RowState& rows, const KeyRange& range, std::int64_t base,
                              std::int64_t c, const float* scores, const float* dp, float* p_out, float* ds_out) {
  const DF df;
  const GradientLanes<Products::kRound, kMasked, kDropout> lanes(rule, rows, c);
  for (std::int64_t k = range.begin; k < range.end; k += 8) {
    DropoutBlock block;
    if constexpr (kDropout) block = philox_block(*rule.mask, static_cast<std::uint32_t>((base + k) / 8), lanes.mask_rows);
    const auto pair = [&]<int kIndex>() HWY_ATTR {
      const std::int64_t at = (k + kIndex) * kRowBlock + c;
      VF p0, p1, ds0, ds1;
      VF mask0 = hn::Zero(df);
      VF mask1 = hn::Zero(df);
      if constexpr (kDropout) {
        mask0 = keep<kIndex>(block, lanes.threshold, lanes.keep_factor);
        mask1 = keep<kIndex + 1>(block, lanes.threshold, lanes.keep_factor);
      }
      lanes.element(hn::LoadU(df, scores + at), hn::LoadU(df, dp + at), base + k + kIndex, mask0, p0, ds0);
      lanes.element(hn::LoadU(df, scores + at + kRowBlock), hn::LoadU(df, dp + at + kRowBlock), base + k + kIndex + 1, mask1,
                    p1, ds1);
      Products::store_right(p_out, k + kIndex, c, p0, p1);
      Products::store_right(ds_out, k + kIndex, c, ds0, ds1);
    };
    pair.template operator()<0>();
    pair.template operator()<2>();
    pair.template operator()<4>();
    pair.template operator()<6>();
  }
}

/// gradient_step for every row of the block; operands are zero in the rest of the block's range.
template <class Products>
inline void gradient_block(const ScoreRule& rule, const RowState& rows, const BlockRanges& ranges, std::int64_t base,
                           float* scores, const float* dp, float* p_out, float* ds_out) {
  const auto zero = [&](std::int64_t k0, std::int64_t k1, std::int64_t c) HWY_ATTR {
    zero_right<Products>(p_out, k0, k1, c);
    zero_right<Products>(ds_out, k0, k1, c);
  };
  for (std::int64_t c = 0; c < kRowBlock; c += kLanes) {
    const KeyRange& range = ranges.group[c / kRowGroup];
    if (range.begin == range.end) {
      zero(ranges.all.begin, ranges.all.end, c);
      continue;
    }
    if (rule.in_place) scores_in_place(rule, scores + c, kRowBlock, range.begin, range.end);
    if (range.masked) {
      if (rule.dropout) {
        gradient_step<Products, true, true>(rule, rows, range, base, c, scores, dp, p_out, ds_out);
      } else {
        gradient_step<Products, true, false>(rule, rows, range, base, c, scores, dp, p_out, ds_out);
      }
    } else if (rule.dropout) {
      gradient_step<Products, false, true>(rule, rows, range, base, c, scores, dp, p_out, ds_out);
    } else {
      gradient_step<Products, false, false>(rule, rows, range, base, c, scores, dp, p_out, ds_out);
    }
    zero(ranges.all.begin, range.begin, c);
    zero(range.end, ranges.all.end, c);
  }
}

}  // namespace
}  // namespace quern
