// Quantizers of Q3_K and Q6_K: a value is d * scale * code, with d of the super-block, and signed integers: the scale of the
// sub-block, and codes of which there is one more below zero than above. Included into each instruction-set file.
//
// The steps are those of the affine formats: each sub-block alone, with its extremes at either end of the codes; a unit of
// all steps; rounds of integers around the scales and least-squares units. The best state seen is kept.
#pragma once

#include "math/block_quantize_k_group-inl.hpp"

namespace quern {
namespace {
namespace kq {

/// Codes from -kHalf to kHalf - 1, scales from -kMaxScale to kMaxScale - 1, 16 elements to a sub-block.
///
/// The tries of a sub-block's step put its extreme at code kHalf + 0.9 down to kHalf + 0.9 - kSpread; then scales within
/// kReach of the nearest are tried. Each format has what it gains from: many codes fit by luck, which more tries find, and
/// few depend on the scales.
template <int kHalfOf, int kMaxScaleOf>
struct SymmetricFormat {
  static constexpr int kElements = 16;
  static constexpr int kHalf = kHalfOf;
  static constexpr int kMaxScale = kMaxScaleOf;
  static constexpr bool kFew = kHalf < 8;
  static constexpr int kTries = kFew ? 6 : 20;
  static constexpr float kSpread = kFew ? 2.0F : 10.0F;
  static constexpr int kReach = kFew ? 2 : 1;
};

using Sixteen = Group<16>;

struct ProductSums {
  V qq, xq;  ///< weighted sums of squared codes, and of codes times values
};

template <class F>
HWY_INLINE V symmetric_codes(V x, V inverse) {
  return rounded(clamped(hn::Mul(x, inverse), splat(-F::kHalf), splat(F::kHalf - 1)));
}

template <class F>
HWY_INLINE ProductSums sum_products(const Sixteen& group, int first, V inverse) {
  ProductSums sums{hn::Zero(DF()), hn::Zero(DF())};
  for (int j = 0; j < F::kElements; ++j) {
    const V x = hn::Load(DF(), group.x[j] + first);
    const V q = symmetric_codes<F>(x, inverse);
    const V wq = hn::Mul(hn::Load(DF(), group.w[j] + first), q);
    sums.qq = hn::Add(sums.qq, hn::Mul(wq, q));
    sums.xq = hn::Add(sums.xq, hn::Mul(wq, x));
  }
  return sums;
}

/// The weighted squared error of each sub-block with step a, every code the nearest.
template <class F>
HWY_INLINE V symmetric_error(const Sixteen& group, int first, V a) {
  const V inverse = inverse_or_zero(a);
  V error = hn::Zero(DF());
  for (int j = 0; j < F::kElements; ++j) {
    const V x = hn::Load(DF(), group.x[j] + first);
    const V difference = hn::Sub(hn::Mul(a, symmetric_codes<F>(x, inverse)), x);
    error = hn::Add(error, hn::Mul(hn::Load(DF(), group.w[j] + first), hn::Mul(difference, difference)));
  }
  return error;
}

/// The best step of each sub-block alone, of either sign, and how much weighted square it explains.
struct SymmetricFit {
  Lanes16 plus, minus;
  Lanes16 gain_plus, gain_minus;
};

template <class F>
inline void fit_symmetric(const Sixteen& group, SymmetricFit& fit) {
  constexpr int kRefits = 2;
  for (int first = 0; first < kWidth; first += kVectorLanes) {
    const V zero = hn::Zero(DF());
    V low = zero;
    V high = zero;
    for (int j = 0; j < F::kElements; ++j) {
      const V x = hn::Load(DF(), group.x[j] + first);
      low = hn::Min(low, x);
      high = hn::Max(high, x);
    }
    const V extreme = hn::Max(high, hn::Sub(zero, low));
    const V inverse_extreme = inverse_or_zero(extreme);
    for (int sign = 0; sign < 2; ++sign) {
      // Step a > 0 has the long end for low values, a < 0 for high ones.
      V best_a = zero;
      V best_gain = zero;
      const auto attempt = [&](V inverse) __attribute__((always_inline)) {
        const ProductSums sums = sum_products<F>(group, first, inverse);
        const Mask some = hn::Gt(sums.qq, zero);
        const V a = hn::IfThenElseZero(some, hn::Div(sums.xq, hn::IfThenElse(some, sums.qq, splat(1.0F))));
        const V gain = hn::Mul(a, sums.xq);
        const Mask better = hn::Gt(gain, best_gain);
        best_gain = hn::IfThenElse(better, gain, best_gain);
        best_a = hn::IfThenElse(better, a, best_a);
      };
      for (int i = 0; i < F::kTries; ++i) {
        constexpr float kStep = F::kSpread / static_cast<float>(F::kTries - 1);
        const float codes = static_cast<float>(F::kHalf) + 0.9F - kStep * static_cast<float>(i);
        attempt(hn::Mul(splat(sign == 0 ? codes : -codes), inverse_extreme));
      }
      for (int i = 0; i < kRefits; ++i) attempt(inverse_or_zero(best_a));
      store(best_a, sign == 0 ? fit.plus : fit.minus, first);
      store(best_gain, sign == 0 ? fit.gain_plus : fit.gain_minus, first);
    }
  }
}

/// A whole choice for a super-block but the codes: those are the nearest ones.
struct SymmetricChoice {
  SuperScale d;
  double error = 0.0;
  Lanes16 scale;  ///< integers
};

/// The best of the scales around `centre`, of each sub-block, where it is better than what the choice has.
template <class F>
inline void try_integers(const Sixteen& group, SuperScale d, const Lanes16& centre, Lanes16& scale, Lanes16& error) {
  for (int first = 0; first < kWidth; first += kVectorLanes) {
    const V step = splat(d.scaled);
    V best_scale = load(scale, first);
    V best_error = load(error, first);
    for (int i = -F::kReach; i <= F::kReach; ++i) {
      const V s =
          clamped(hn::Add(load(centre, first), splat(static_cast<float>(i))), splat(-F::kMaxScale), splat(F::kMaxScale - 1));
      const V e = symmetric_error<F>(group, first, hn::Mul(step, s));
      const Mask better = hn::Lt(e, best_error);
      best_error = hn::IfThenElse(better, e, best_error);
      best_scale = hn::IfThenElse(better, s, best_scale);
    }
    store(best_scale, scale, first);
    store(best_error, error, first);
  }
}

/// The nearest integer multiples of d.
template <class F>
inline void nearest_integers(const Lanes16& steps, SuperScale d, Lanes16& scale) {
  for (int first = 0; first < kWidth; first += kVectorLanes) {
    const V n = hn::Mul(load(steps, first), inverse_or_zero(splat(d.scaled)));
    store(rounded(clamped(n, splat(-F::kMaxScale), splat(F::kMaxScale - 1))), scale, first);
  }
}

/// The unit of which all steps are nearly multiples by -kMaxScale to kMaxScale - 1.
template <class F>
inline float signed_unit(const Lanes16& steps, const Lanes16& weights) {
  float largest = 0.0F;
  float magnitude = 0.0F;
  for (int k = 0; k < kWidth; ++k) {
    const float m = steps.at[k] < 0.0F ? -steps.at[k] : steps.at[k];
    if (m > magnitude) {
      magnitude = m;
      largest = steps.at[k];
    }
  }
  return common_unit<kWidth>(steps.at, weights.at, -F::kMaxScale, F::kMaxScale - 1, largest, -F::kMaxScale);
}

/// d by weighted least squares for the choice's scales and the codes that they give.
template <class F>
inline SuperScale refitted(const Sixteen& group, const SymmetricChoice& choice) {
  Lanes16 sum_qq;
  Lanes16 sum_xq;
  for (int first = 0; first < kWidth; first += kVectorLanes) {
    const V inverse = inverse_or_zero(hn::Mul(splat(choice.d.scaled), load(choice.scale, first)));
    const ProductSums sums = sum_products<F>(group, first, inverse);
    store(sums.qq, sum_qq, first);
    store(sums.xq, sum_xq, first);
  }
  double qq = 0.0;
  double xq = 0.0;
  for (int lane = 0; lane < kWidth; ++lane) {
    const double scale = static_cast<double>(choice.scale.at[lane]);
    qq += scale * scale * static_cast<double>(sum_qq.at[lane]);
    xq += scale * static_cast<double>(sum_xq.at[lane]);
  }
  return qq > 0.0 ? group.scale(xq / qq, 0) : choice.d;
}

inline double total(const Lanes16& error) {
  double sum = 0.0;
  for (const float e : error.at) sum += static_cast<double>(e);
  return sum;
}

template <class F>
inline SymmetricChoice choose_symmetric(const Sixteen& group) {
  constexpr int kRounds = 2;
  SymmetricFit fit;
  fit_symmetric<F>(group, fit);
  Lanes16 steps;
  Lanes16 weights;
  for (int k = 0; k < kWidth; ++k) {
    const bool plus = fit.gain_plus.at[k] >= fit.gain_minus.at[k];
    const float a = plus ? fit.plus.at[k] : fit.minus.at[k];
    steps.at[k] = a;
    // Around its best value a step's error grows with the weighted sum of squared codes, which is gain / a^2.
    weights.at[k] = a * a > 0.0F ? (plus ? fit.gain_plus.at[k] : fit.gain_minus.at[k]) / (a * a) : 0.0F;
  }
  SymmetricChoice choice;
  choice.d = group.scale(group.zero[0] ? 0.0 : static_cast<double>(signed_unit<F>(steps, weights)), 0, true);
  Lanes16 centre;
  Lanes16 error;
  for (float& e : error.at) e = kNoError;
  nearest_integers<F>(fit.plus, choice.d, centre);
  try_integers<F>(group, choice.d, centre, choice.scale, error);
  nearest_integers<F>(fit.minus, choice.d, centre);
  try_integers<F>(group, choice.d, centre, choice.scale, error);
  for (int k = 0; k < kWidth; ++k) {
    if (!(group.sum_wxx.at[k] < error.at[k])) continue;
    error.at[k] = group.sum_wxx.at[k];
    choice.scale.at[k] = 0.0F;
  }
  choice.error = total(error);
  SymmetricChoice best = choice;
  for (int round = 0; round < kRounds; ++round) {
    choice.d = refitted<F>(group, choice);
    centre = choice.scale;
    for (float& e : error.at) e = kNoError;
    try_integers<F>(group, choice.d, centre, choice.scale, error);
    choice.error = total(error);
    if (choice.error < best.error) best = choice;
  }
  return best;
}

/// The codes of a choice plus kHalf, in the order of the elements.
template <class F>
inline void symmetric_codes_of(const Sixteen& group, const SymmetricChoice& choice, std::uint8_t (&codes)[kWidth * 16]) {
  CodesByLane<16> by_lane;
  for (int first = 0; first < kWidth; first += kVectorLanes) {
    const V inverse = inverse_or_zero(hn::Mul(splat(choice.d.scaled), load(choice.scale, first)));
    for (int j = 0; j < F::kElements; ++j) {
      const V x = hn::Load(DF(), group.x[j] + first);
      by_lane.set(j, first, hn::Add(symmetric_codes<F>(x, inverse), splat(F::kHalf)));
    }
  }
  by_lane.copy_to(codes);
}

}  // namespace kq
}  // namespace
}  // namespace quern
