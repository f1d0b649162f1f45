// IQ4_XS: eight sub-blocks of 32 whose scales are a common f16 times an integer from -32 to 31. Included into each
// instruction-set file after it defines quern::lanes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math/block_quantize_search-inl.hpp"

namespace quern {
namespace {
namespace lanes {

/// Multiples of the scale at which the extreme value is tried: the ends of the table and what lies around them, chosen as
/// those of the other formats.
constexpr float kIq4Tried[24] = {-130.0F, 114.0F,  -122.0F, -138.0F, -108.0F, 122.0F,  -126.0F, 110.0F,
                                 -134.0F, 118.0F,  -102.0F, -118.0F, -112.0F, -142.0F, 92.0F,   126.0F,
                                 106.0F,  -128.0F, -132.0F, -124.0F, 88.0F,   -120.0F, -86.0F,  -104.0F};
constexpr float kIq4TriedWeighted[32] = {-130.0F, 114.0F,  -144.0F, -122.0F, 130.0F,  -106.0F, -162.0F, -136.0F,
                                         150.0F,  120.0F,  108.0F,  92.0F,   -126.0F, -112.0F, -152.0F, 138.0F,
                                         -170.0F, -100.0F, -86.0F,  124.0F,  -118.0F, -140.0F, -132.0F, -148.0F,
                                         116.0F,  98.0F,   88.0F,   -156.0F, 104.0F,  112.0F,  144.0F,  -108.0F};

template <bool kWeighted>
QUERN_LANES_INLINE constexpr const auto& iq4_tried() {
  if constexpr (kWeighted) {
    return kIq4TriedWeighted;
  } else {
    return kIq4Tried;
  }
}

/// Integers of the largest sub-block scale that are tried.
constexpr float kIq4XsTried[6] = {-32.0F, 31.0F, -31.0F, 30.0F, -29.5F, 28.5F};

struct Iq4Xs {
  static constexpr int kElements = 256;
  static constexpr int kBytes = 136;

  template <bool kWeighted>
  static void quantize(V* x, V* w, int count, std::uint8_t* out) {
    const Unit unit = scale_values(x, 256);
    if constexpr (kWeighted) scale_weights(w, 256);

    // The best scale of each sub-block alone, and what it is worth: the weight of its codes.
    V alone[8];
    V extremes[8];
    V extreme = splat(0.0F);
    for (int k = 0; k < 8; ++k) {
      const V* const wk = kWeighted ? w + 32 * k : w;
      extremes[k] = extent_of(x + 32 * k, 32).extreme;
      BestScale best;
      try_extremes<Iq4Values, kWeighted>(x + 32 * k, wk, extremes[k], iq4_tried<kWeighted>(), best);
      alone[k] = refitted<Iq4Values, kWeighted>(x + 32 * k, wk, best.d);
      extreme = magnitude(alone[k]) > magnitude(extreme) ? alone[k] : extreme;
    }

    Super best;
    for (const float tried : kIq4XsTried) {
      consider<kWeighted>(x, w, alone, f16_scale(extreme * splat(1.0F / tried), unit), best);
    }
    for (int round = 0; round < 2; ++round) consider<kWeighted>(x, w, alone, f16_scale(best.refit, unit), best);
    find_exact(x, extremes, unit, best);
    const I none = extreme == splat(0.0F);
    best.scale = select(none, {splat_i(0), splat(0.0F)}, best.scale);
    write(x, best, count, out);
  }

 private:
  struct Super {
    Scale scale = {splat_i(0), splat(0.0F)};
    V integers[8] = {};
    V error = splat(__builtin_inff());
    V refit = splat(0.0F);  ///< least-squares common scale of these codes and integers
  };
  /// A sub-block with one integer: its error, and the sums of the common scale's fit.
  struct Sub {
    V error = splat(0.0F);
    V values = splat(0.0F);
    V squares = splat(0.0F);
  };

  template <bool kWeighted>
  static QUERN_LANES_INLINE Sub measured(const V* x, const V* w, V scale) {
    Sub sub;
    const V inverse = inverse_or_zero(scale);
    for (int j = 0; j < 32; ++j) {
      const V q = Iq4Values::nearest(x[j] * inverse);
      const V e = x[j] - scale * q;
      const V wq = kWeighted ? w[j] * q : q;
      sub.error = sub.error + (kWeighted ? w[j] * e : e) * e;
      sub.values = sub.values + wq * x[j];
      sub.squares = sub.squares + wq * q;
    }
    return sub;
  }

  /// Keeps `scale`, with the best integers near those of the sub-blocks' own scales, where it is better than `best`.
  template <bool kWeighted>
  static inline void consider(const V* x, const V* w, const V* alone, const Scale& scale, Super& best) {
    const V inverse = inverse_or_zero(scale.value);
    Super super;
    super.scale = scale;
    super.error = splat(0.0F);
    V values = splat(0.0F);
    V squares = splat(0.0F);
    for (int k = 0; k < 8; ++k) {
      const V* const wk = kWeighted ? w + 32 * k : w;
      const V middle = rounded(clamped(alone[k] * inverse, -32.0F, 31.0F));
      Sub chosen;
      chosen.error = splat(__builtin_inff());
      for (int step = -1; step <= 1; ++step) {
        const V integer = clamped(middle + splat(static_cast<float>(step)), -32.0F, 31.0F);
        const Sub sub = measured<kWeighted>(x + 32 * k, wk, scale.value * integer);
        const I better = sub.error < chosen.error;
        chosen.error = better ? sub.error : chosen.error;
        chosen.values = better ? sub.values : chosen.values;
        chosen.squares = better ? sub.squares : chosen.squares;
        super.integers[k] = better ? integer : super.integers[k];
      }
      super.error = super.error + chosen.error;
      values = values + super.integers[k] * chosen.values;
      squares = squares + (super.integers[k] * super.integers[k]) * chosen.squares;
    }
    super.refit = squares > splat(0.0F) ? values / squares : scale.value;
    const I better = super.error < best.error;
    best.scale = select(better, super.scale, best.scale);
    best.error = better ? super.error : best.error;
    best.refit = better ? super.refit : best.refit;
    for (int k = 0; k < 8; ++k) best.integers[k] = better ? super.integers[k] : best.integers[k];
  }

  /// Where a common scale and integers say every value as it is: keeps them in `best`. Such a scale divides the smallest of
  /// the sub-blocks' exact scales, by at most 32.
  static inline void find_exact(const V* x, const V* extremes, const Unit& unit, Super& best) {
    V scales[8];
    V smallest = splat(0x1p127F);
    I active = splat_i(-1);
    for (int k = 0; k < 8 && any(active); ++k) {
      scales[k] = exact_iq4_scale<false>(x + 32 * k, extremes[k], unit);
      active &= (scales[k] != splat(0.0F)) | (extremes[k] == splat(0.0F));
      const V m = magnitude(scales[k]);
      smallest = min(m > splat(0.0F) ? m : splat(0x1p127F), smallest);
    }
    for (int divisor = 1; divisor <= 32 && any(active); ++divisor) {
      const Scale scale = f16_scale(smallest / splat(static_cast<float>(divisor)), unit);
      I exact = active & (scale.value * splat(static_cast<float>(divisor)) == smallest);
      V lowest = splat(0.0F);
      V highest = splat(0.0F);
      V integers[8];
      for (int k = 0; k < 8; ++k) {
        integers[k] = rounded(clamped(scales[k] / scale.value, -64.0F, 64.0F));
        exact &= integers[k] * scale.value == scales[k];
        lowest = min(integers[k], lowest);
        highest = max(integers[k], highest);
      }
      const I fits = exact & (lowest >= splat(-32.0F)) & (highest <= splat(31.0F));
      const I fits_negated = exact & ~fits & (highest <= splat(32.0F)) & (lowest >= splat(-31.0F));
      best.scale = select(fits, scale, best.scale);
      best.scale = select(fits_negated, {scale.bits | splat_i(0x8000), -scale.value}, best.scale);
      for (int k = 0; k < 8; ++k) {
        best.integers[k] = fits ? integers[k] : (fits_negated ? -integers[k] : best.integers[k]);
      }
      active &= ~(fits | fits_negated);
    }
  }

  static void write(const V* x, const Super& super, int count, std::uint8_t* out) {
    // d and the upper bits of the integers; the lower bits; codes.
    Words<34> words;
    I high = splat_i(0);
    I low = splat_i(0);
    for (int k = 0; k < 8; ++k) {
      const I stored = integer(super.integers[k]) + splat_i(32);
      low |= (stored & splat_i(15)) << (4 * k);
      high |= ((stored >> 4) & splat_i(3)) << (2 * k);
      const V inverse = inverse_or_zero(super.scale.value * super.integers[k]);
      I codes[32];
      for (int j = 0; j < 32; ++j) codes[j] = Iq4Values::code(x[32 * k + j] * inverse);
      for (int i = 0; i < 4; ++i) words.set(2 + 4 * k + i, nibble_word(codes, i));
    }
    words.set(0, (super.scale.bits & splat_i(0xFFFF)) | (high << 16));
    words.set(1, low);
    for (int lane = 0; lane < count; ++lane, out += kBytes) words.write(lane, 0, 34, out);
  }
};

}  // namespace lanes
}  // namespace
}  // namespace quern
