// Q4_1 and Q5_1: a scale and a minimum. Included into each instruction-set file after it defines quern::lanes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/block_quantize_search-inl.hpp"

namespace quern {
namespace {
namespace lanes {

/// The codes, not yet rounded, of the smallest and of the largest value; the latter counted from the largest code.
struct Ends {
  float low;
  float high;
};

/// Chosen one after the other, as the symmetric formats' are. Without importance few, and such that no rounded code is
/// beyond the format's.
constexpr Ends kEndsTried15[8] = {{-0.25F, 0.25F}, {0.25F, 0.49F}, {-0.49F, 0.0F}, {0.0F, 0.25F},
                                  {1.0F, 0.25F},   {0.0F, -0.25F}, {0.75F, 0.0F},  {0.0F, 0.49F}};
constexpr Ends kEndsTried31[12] = {{0.0F, 0.0F},   {0.75F, 0.25F},   {-0.25F, -0.25F}, {0.25F, 0.25F},
                                   {0.25F, -1.0F}, {1.0F, -1.0F},    {-0.25F, 0.0F},   {1.0F, -0.25F},
                                   {0.0F, 0.25F},  {-0.49F, -0.25F}, {1.0F, -0.75F},   {0.75F, -1.0F}};
constexpr Ends kEndsTriedWeighted15[24] = {{-0.25F, 0.25F}, {0.25F, 0.5F},  {-0.5F, 0.0F},  {0.0F, -1.0F},   {-0.25F, 1.0F},
                                           {0.0F, 0.25F},   {-1.0F, 0.0F},  {0.0F, 1.75F},  {0.75F, -0.75F}, {-1.75F, 0.0F},
                                           {0.0F, -0.25F},  {-1.0F, 0.5F},  {0.0F, -0.75F}, {0.75F, -0.25F}, {-0.5F, 0.75F},
                                           {0.0F, 1.25F},   {0.25F, 0.0F},  {-1.5F, 0.25F}, {-0.5F, -0.25F}, {-1.5F, 1.75F},
                                           {0.75F, -1.0F},  {-0.5F, 0.25F}, {0.0F, 0.5F},   {-0.5F, 1.75F}};
constexpr Ends kEndsTriedWeighted31[24] = {
    {-0.25F, 0.0F}, {0.25F, 0.25F},   {0.0F, -0.75F},  {1.0F, -1.0F},  {1.0F, -0.25F},  {-0.75F, 0.0F},
    {0.0F, 0.25F},  {-0.25F, 1.0F},   {-0.75F, 0.75F}, {0.75F, -1.0F}, {-1.5F, 0.25F},  {0.0F, 1.25F},
    {0.0F, 0.0F},   {1.0F, -0.75F},   {0.75F, 0.0F},   {-1.75F, 0.0F}, {0.25F, -0.75F}, {0.25F, 0.5F},
    {-1.0F, 0.5F},  {-0.25F, -0.25F}, {0.25F, 1.75F},  {0.0F, -1.0F},  {-0.5F, 0.5F},   {0.25F, 0.0F}};

template <int kLargest, bool kWeighted>
QUERN_LANES_INLINE constexpr const auto& ends_tried() {
  if constexpr (kWeighted) {
    if constexpr (kLargest == 15) {
      return kEndsTriedWeighted15;
    } else {
      return kEndsTriedWeighted31;
    }
  } else {
    if constexpr (kLargest == 15) {
      return kEndsTried15;
    } else {
      return kEndsTried31;
    }
  }
}

/// kLargest: the largest code.
template <int kLargest>
struct Affine {
  static constexpr int kElements = 32;
  static constexpr int kBytes = kLargest == 15 ? 20 : 24;
  static constexpr float kTop = static_cast<float>(kLargest);

  template <bool kWeighted>
  static void quantize(V* x, V* w, int count, std::uint8_t* out) {
    if constexpr (kWeighted) scale_weights(w, 32);
    V low = x[0];
    V high = x[0];
    for (int j = 1; j < 32; ++j) {
      low = min(x[j], low);
      high = max(x[j], high);
    }
    const Unit unit = unit_of(max(magnitude(low), magnitude(high)), kSmallestExponent);
    low = low * unit.inverse;
    high = high * unit.inverse;
    Sums sums;
    for (int j = 0; j < 32; ++j) {
      x[j] = x[j] * unit.inverse;
      const V y = x[j] - low;
      sums.wy = sums.wy + (kWeighted ? w[j] * y : y);
      if constexpr (kWeighted) sums.w = sums.w + w[j];
    }
    if constexpr (!kWeighted) sums.w = splat(32.0F);
    sums.inverse_w = splat(1.0F) / sums.w;
    Fit fit;
    fit.d = (high - low) * splat(1.0F / kTop);
    fit.m = low;
    search<kWeighted>(x, w, low, high, sums, ends_tried<kLargest, kWeighted>(), fit);
    if constexpr (kWeighted) refit<true>(x, w, low, sums, fit);
    refit<kWeighted>(x, w, low, sums, fit);

    Stored stored = {f16_scale(fit.d, unit), f16_offset(fit.m, unit)};
    // A minimum that is large beside the range is rounded by steps that matter: one at or below the smallest value lets the
    // scale make up for it.
    const I coarse = magnitude(low) > (high - low) * splat(16.0F);
    if (any(coarse)) stored = select_stored(coarse, from_below<kWeighted>(x, w, low, high, unit, stored), stored);
    const Stored exact = exact_fit(x, low, high, unit);
    stored = select_stored(exact.d.value != splat(0.0F), exact, stored);
    const I constant = (high - low == splat(0.0F)) & (stored.m.value == low);
    stored.d = select(constant, {splat_i(0), splat(0.0F)}, stored.d);
    write(x, stored, count, out);
  }

 private:
  struct Stored {
    Scale d;
    Scale m;
  };
  struct Fit {
    V gain = splat(-1.0F);
    V d;
    V m;
  };
  /// Of all elements, y = x - low.
  struct Sums {
    V w = splat(0.0F);
    V wy = splat(0.0F);
    V inverse_w;
  };

  static QUERN_LANES_INLINE Stored select_stored(I mask, const Stored& a, const Stored& b) {
    return {select(mask, a.d, b.d), select(mask, a.m, b.m)};
  }
  static QUERN_LANES_INLINE V nearest(V x) { return rounded(clamped(x, 0.0F, kTop)); }

  /// Rounds (x - low) * inverse + offset to codes, fits scale and minimum by least squares, and keeps the best.
  template <bool kWeighted, bool kClamp, int kCount>
  static QUERN_LANES_INLINE void try_fits(const V* x, const V* w, V low, const Sums& sums, const V (&inverse)[kCount],
                                          const V (&offset)[kCount], Fit& best) {
    V q1[kCount];
    V q2[kCount];
    V qy[kCount];
    for (int c = 0; c < kCount; ++c) q1[c] = q2[c] = qy[c] = splat(0.0F);
    for (int j = 0; j < 32; ++j) {
      const V y = x[j] - low;
      for (int c = 0; c < kCount; ++c) {
        const V code = y * inverse[c] + offset[c];
        const V q = kClamp ? nearest(code) : rounded(code);
        const V wq = kWeighted ? w[j] * q : q;
        q1[c] = q1[c] + wq;
        q2[c] = sum_with_square<!kWeighted>(q2[c], wq, q);
        qy[c] = qy[c] + wq * y;
      }
    }
    for (int c = 0; c < kCount; ++c) {
      const V spread = sums.w * q2[c] - q1[c] * q1[c];
      const V common = sums.w * qy[c] - q1[c] * sums.wy;
      const V d = common / spread;
      const V gain = common * d;
      const I better = gain > best.gain;
      best.gain = better ? gain : best.gain;
      best.d = better ? d : best.d;
      best.m = better ? low + (sums.wy - d * q1[c]) * sums.inverse_w : best.m;
    }
  }

  template <bool kWeighted, int kCount>
  static QUERN_LANES_INLINE void search(const V* x, const V* w, V low, V high, const Sums& sums, const Ends (&ends)[kCount],
                                        Fit& best) {
    constexpr int kTogether = 4;
    static_assert(kCount % kTogether == 0);
    const V one = splat(1.0F) / (high - low);
    for (int c = 0; c < kCount; c += kTogether) {
      V inverse[kTogether];
      V offset[kTogether];
      for (int i = 0; i < kTogether; ++i) {
        inverse[i] = one * splat(kTop + ends[c + i].high - ends[c + i].low);
        offset[i] = splat(ends[c + i].low);
      }
      try_fits<kWeighted, kWeighted, kTogether>(x, w, low, sums, inverse, offset, best);
    }
  }

  /// Codes of the fit's scale and minimum, and the least-squares fit of these codes.
  template <bool kWeighted>
  static QUERN_LANES_INLINE void refit(const V* x, const V* w, V low, const Sums& sums, Fit& fit) {
    const V inverse[1] = {inverse_or_zero(fit.d)};
    const V offset[1] = {(low - fit.m) * inverse[0]};
    Fit next = {splat(-1.0F), fit.d, fit.m};
    try_fits<kWeighted, true>(x, w, low, sums, inverse, offset, next);
    fit = next;
  }

  template <bool kWeighted>
  static QUERN_LANES_INLINE V error_of(const V* x, const V* w, const Stored& stored) {
    const V inverse = inverse_or_zero(stored.d.value);
    V error = splat(0.0F);
    for (int j = 0; j < 32; ++j) {
      const V q = nearest((x[j] - stored.m.value) * inverse);
      const V e = x[j] - (stored.d.value * q + stored.m.value);
      error = error + (kWeighted ? w[j] * e : e) * e;
    }
    return error;
  }

  /// The largest binary16 minimum at or below the smallest value, with the scales that bring the largest value to the
  /// largest code and to lower ones, or `other`: whichever has the smallest error.
  template <bool kWeighted>
  static inline Stored from_below(const V* x, const V* w, V low, V high, const Unit& unit, const Stored& other) {
    Scale m = f16_offset(low, unit);
    // One step towards minus infinity in binary16; from +0 that is the smallest negative number.
    const I negative = (m.bits & splat_i(0x8000)) != splat_i(0);
    const I zero = (m.bits & splat_i(0x7FFF)) == splat_i(0);
    const I step = zero ? splat_i(0x8001) : m.bits + (negative ? splat_i(1) : splat_i(-1));
    const I finite = (step & splat_i(0x7FFF)) < splat_i(0x7C00);
    const Scale lower = {step, from_f16(step) * unit.inverse};
    m = select((m.value > low) & finite, lower, m);
    Stored best = other;
    V best_error = error_of<kWeighted>(x, w, other);
    for (int top = kLargest; top >= 1; --top) {
      const Stored tried = {f16_scale((high - m.value) * splat(1.0F / static_cast<float>(top)), unit), m};
      const V error = error_of<kWeighted>(x, w, tried);
      const I better = error < best_error;
      best_error = better ? error : best_error;
      best = select_stored(better, tried, best);
    }
    return best;
  }

  /// Where every value of a lane of `tried` decodes to itself with scale d and the minimum nearest to `start`: keeps them in
  /// `found`.
  static QUERN_LANES_INLINE I try_exact(const V* x, I tried, const Scale& d, V start, V tolerance, const Unit& unit,
                                        Stored& found) {
    const Scale m = f16_offset(start, unit);
    I exact = tried & (magnitude(m.value - start) <= tolerance);
    const V inverse = inverse_or_zero(d.value);
    for (int j = 0; j < 32 && any(exact); j += 4) {
      for (int i = j; i < j + 4; ++i) exact &= d.value * nearest((x[i] - m.value) * inverse) + m.value == x[i];
    }
    found = select_stored(exact, {d, m}, found);
    return exact;
  }

  /// Binary16 scale and minimum with which every value decodes to itself; scale 0 where there are none. As
  /// exact_scale(), on the differences from the smallest value, which may have code 0 or any
  /// other, or (where the scale is negative) on those from the largest.
  static inline Stored exact_fit(const V* x, V low, V high, const Unit& unit) {
    V smallest = splat(0x1p127F);
    for (int j = 0; j < 32; ++j) {
      const V y = x[j] - low;
      smallest = min(y > splat(0.0F) ? y : splat(0x1p127F), smallest);
    }
    Stored found = {{splat_i(0), splat(0.0F)}, {splat_i(0), splat(0.0F)}};
    const V range = high - low;
    const V limit = (smallest * splat(kTop * 1.001F)) / range;
    // The values may have been rounded where the minimum was added.
    const V tolerance = max(magnitude(low), magnitude(high)) * splat(0x1p-23F);
    V divisor = splat(1.0F);
    // Of a constant block the limit is infinite.
    I active = (limit >= divisor) & (range > splat(0.0F));
    while (any(active)) {
      const V wanted = smallest / divisor;
      const Scale d = f16_scale(wanted, unit);
      const I plausible = active & (magnitude(d.value - wanted) * divisor <= tolerance);
      if (any(plausible)) {
        const Scale negated = {d.bits | splat_i(0x8000), -d.value};
        for (int code = 0; code <= kLargest; ++code) {
          const V offset = splat(static_cast<float>(code)) * d.value;
          active &= ~try_exact(x, plausible & active, d, low - offset, tolerance, unit, found);
          active &= ~try_exact(x, plausible & active, negated, high + offset, tolerance, unit, found);
        }
      }
      divisor = divisor + splat(1.0F);
      active &= limit >= divisor;
    }
    return found;
  }

  static void write(const V* x, const Stored& stored, int count, std::uint8_t* out) {
    const V inverse = inverse_or_zero(stored.d.value);
    I codes[32];
    for (int j = 0; j < 32; ++j) {
      codes[j] = integer(clamped((x[j] - stored.m.value) * inverse, 0.0F, kTop));
    }
    Words<6> words;
    words.set(0, (stored.d.bits & splat_i(0xFFFF)) | (stored.m.bits << 16));
    if constexpr (kLargest == 31) words.set(1, fifth_bits(codes));
    for (int k = 0; k < 4; ++k) words.set(2 + k, nibble_word(codes, k));
    for (int lane = 0; lane < count; ++lane, out += kBytes) {
      words.write(lane, 0, 1, out);
      if constexpr (kLargest == 31) words.write(lane, 1, 1, out + 4);
      words.write(lane, 2, 4, out + (kLargest == 31 ? 8 : 4));
    }
  }
};

}  // namespace lanes
}  // namespace
}  // namespace quern
