// Quantizers of Q2_K, Q4_K and Q5_K: a value is d * scale * code - dmin * minimum, with d and dmin of the super-block, and
// scale and minimum (small integers >= 0) of the sub-block. Included into each instruction-set file.
//
// 1. Each sub-block alone: the step a and offset b of a * code - b, by trying some and refitting each by weighted least
//    squares to the codes that it gives.
// 2. d and dmin, such that the steps and offsets are near multiples of them.
// 3. Rounds: each sub-block tries the integers around its scale and minimum, codes rounded anew each time; then d and dmin
//    are refitted by weighted least squares over the super-block. The best state seen is kept.
#pragma once

#include "math/block_quantize_k_group-inl.hpp"

namespace quern {
namespace {
namespace kq {

/// Codes from 0 to kMaxCode, scales and minima from 0 to kMaxScale, kElements to a sub-block.
///
/// The tries of a sub-block's step lay its range of values over kMaxCode + kFewer to kMaxCode + kMore codes, and move them
/// by multiples of kShift from -kShifts to kShifts. More tries and rounds gain little: with twice as many, errors (RMS) of
/// trained weights fell by 0.1 to 0.5 %. To measure again: block_quantize_bench.
template <int kElementsOf, int kMaxCodeOf, int kMaxScaleOf>
struct AffineFormat {
  static constexpr int kElements = kElementsOf;
  static constexpr int kMaxCode = kMaxCodeOf;
  static constexpr int kMaxScale = kMaxScaleOf;
  static constexpr bool kFew = kMaxCode < 8;
  static constexpr int kTries = kFew ? 30 : 36;
  static constexpr float kFewer = kFew ? -0.6F : -3.5F;
  static constexpr float kMore = kFew ? 1.2F : 1.5F;
  static constexpr int kShifts = kFew ? 2 : 1;
  static constexpr float kShift = kFew ? 0.2F : 0.4F;
};

struct CodeSums {
  V q, qq, xq;  ///< weighted sums of codes, their squares, and codes times values
};

template <class F, class Group>
HWY_INLINE CodeSums sum_codes(const Group& group, int first, V inverse, V shift) {
  CodeSums sums{hn::Zero(DF()), hn::Zero(DF()), hn::Zero(DF())};
  const V most = splat(F::kMaxCode);
  for (int j = 0; j < F::kElements; ++j) {
    const V x = hn::Load(DF(), group.x[j] + first);
    const V w = hn::Load(DF(), group.w[j] + first);
    const V q = rounded(clamped(hn::Add(hn::Mul(x, inverse), shift), hn::Zero(DF()), most));
    const V wq = hn::Mul(w, q);
    sums.q = hn::Add(sums.q, wq);
    sums.qq = hn::Add(sums.qq, hn::Mul(wq, q));
    sums.xq = hn::Add(sums.xq, hn::Mul(wq, x));
  }
  return sums;
}

/// The first of these sums alone.
template <class F, class Group>
HWY_INLINE V sum_of_codes(const Group& group, int first, V inverse, V shift) {
  V sum = hn::Zero(DF());
  const V most = splat(F::kMaxCode);
  for (int j = 0; j < F::kElements; ++j) {
    const V x = hn::Load(DF(), group.x[j] + first);
    const V q = rounded(clamped(hn::Add(hn::Mul(x, inverse), shift), hn::Zero(DF()), most));
    sum = hn::Add(sum, hn::Mul(hn::Load(DF(), group.w[j] + first), q));
  }
  return sum;
}

/// The weighted squared error of each sub-block with step a and offset b, every code the nearest.
template <class F, class Group>
HWY_INLINE V affine_error(const Group& group, int first, V a, V b) {
  const V inverse = inverse_or_zero(a);
  const V shift = hn::Mul(b, inverse);
  const V most = splat(F::kMaxCode);
  V error = hn::Zero(DF());
  for (int j = 0; j < F::kElements; ++j) {
    const V x = hn::Load(DF(), group.x[j] + first);
    const V w = hn::Load(DF(), group.w[j] + first);
    const V q = rounded(clamped(hn::Add(hn::Mul(x, inverse), shift), hn::Zero(DF()), most));
    const V difference = hn::Sub(hn::Sub(hn::Mul(a, q), b), x);
    error = hn::Add(error, hn::Mul(w, hn::Mul(difference, difference)));
  }
  return error;
}

/// Steps and offsets of sub-blocks on their own, and the sums of the codes that they give.
struct AffineFit {
  Lanes16 a, b, sum_q, sum_qq;
};

/// The least-squares step and offset (>= 0) for codes with these sums, and its error.
template <class Group>
HWY_INLINE void solve_affine(const Group& group, int first, const CodeSums& sums, V& a, V& b, V& error) {
  const V zero = hn::Zero(DF());
  const V w = load(group.sum_w, first);
  const V wx = load(group.sum_wx, first);
  const V wxx = load(group.sum_wxx, first);
  const V determinant = hn::Sub(hn::Mul(w, sums.qq), hn::Mul(sums.q, sums.q));
  const Mask regular = hn::Gt(determinant, zero);
  const V safe = hn::IfThenElse(regular, determinant, splat(1.0F));
  a = hn::Div(hn::Sub(hn::Mul(w, sums.xq), hn::Mul(wx, sums.q)), safe);
  b = hn::Div(hn::Sub(hn::Mul(a, sums.q), wx), w);
  // Without an offset where it would be negative.
  const Mask some = hn::Gt(sums.qq, zero);
  const V alone = hn::IfThenElseZero(some, hn::Div(sums.xq, hn::IfThenElse(some, sums.qq, splat(1.0F))));
  const Mask plain = hn::Or(hn::Not(regular), hn::Lt(b, zero));
  a = hn::Max(hn::IfThenElse(plain, alone, a), zero);
  b = hn::IfThenElse(plain, zero, b);
  // sum w (x + b - a q)^2
  const V two = splat(2.0F);
  const V ends = hn::Add(wxx, hn::Add(hn::Mul(hn::Mul(a, a), sums.qq), hn::Mul(hn::Mul(b, b), w)));
  const V cross = hn::Sub(hn::Add(hn::Mul(a, sums.xq), hn::Mul(hn::Mul(a, b), sums.q)), hn::Mul(b, wx));
  error = hn::Sub(ends, hn::Mul(two, cross));
}

/// Step 1: the tries, then kRefits rounds of rounding to the fit and fitting to the codes.
template <class F, class Group>
inline void fit_affine(const Group& group, AffineFit& fit) {
  constexpr int kRefits = 2;
  for (int first = 0; first < kWidth; first += kVectorLanes) {
    const V zero = hn::Zero(DF());
    V low = zero;
    V high = hn::Load(DF(), group.x[0] + first);
    for (int j = 0; j < F::kElements; ++j) {
      const V x = hn::Load(DF(), group.x[j] + first);
      low = hn::Min(low, x);
      high = hn::Max(high, x);
    }
    const V w = load(group.sum_w, first);
    const V wx = load(group.sum_wx, first);
    // All codes zero.
    V best_a = zero;
    V best_b = hn::Max(hn::Div(hn::Sub(zero, wx), w), zero);
    V best_q = zero;
    V best_qq = zero;
    V best_error =
        hn::Add(load(group.sum_wxx, first), hn::Mul(best_b, hn::Add(hn::Mul(best_b, w), hn::Mul(splat(2.0F), wx))));
    const V inverse_range = inverse_or_zero(hn::Sub(high, low));
    const auto attempt = [&](V inverse, V shift) __attribute__((always_inline)) {
      const CodeSums sums = sum_codes<F>(group, first, inverse, shift);
      V a;
      V b;
      V error;
      solve_affine(group, first, sums, a, b, error);
      const Mask better = hn::Lt(error, best_error);
      best_error = hn::IfThenElse(better, error, best_error);
      best_a = hn::IfThenElse(better, a, best_a);
      best_b = hn::IfThenElse(better, b, best_b);
      best_q = hn::IfThenElse(better, sums.q, best_q);
      best_qq = hn::IfThenElse(better, sums.qq, best_qq);
    };
    for (int i = 0; i < F::kTries; ++i) {
      constexpr float kStep = (F::kMore - F::kFewer) / static_cast<float>(F::kTries - 1);
      const V inverse = hn::Mul(splat(F::kMaxCode + F::kFewer + kStep * static_cast<float>(i)), inverse_range);
      const V shift = splat(F::kShift * static_cast<float>(i % (2 * F::kShifts + 1) - F::kShifts));
      attempt(inverse, hn::Sub(shift, hn::Mul(low, inverse)));
    }
    for (int i = 0; i < kRefits; ++i) {
      const V inverse = inverse_or_zero(best_a);
      attempt(inverse, hn::Mul(best_b, inverse));
    }
    store(best_a, fit.a, first);
    store(best_b, fit.b, first);
    store(best_q, fit.sum_q, first);
    store(best_qq, fit.sum_qq, first);
  }
}

/// d or dmin for steps or offsets.
template <class F, int kCount>
inline float positive_unit(const float* values, const float* weights) {
  float largest = 0.0F;
  for (int k = 0; k < kCount; ++k) largest = values[k] > largest ? values[k] : largest;
  return common_unit<kCount>(values, weights, 0.0F, F::kMaxScale, largest, F::kMaxScale);
}

/// A whole choice for a group but the codes: those are the nearest ones.
template <class Group>
struct AffineChoice {
  SuperScale d[Group::kSupers];
  SuperScale dmin[Group::kSupers];
  double error[Group::kSupers];
  Lanes16 scale, minimum;  ///< integers

  /// d or dmin of each lane.
  static void spread(const SuperScale (&of)[Group::kSupers], Lanes16& lanes) {
    for (int i = 0; i < kWidth; ++i) lanes.at[i] = of[i / Group::kSubBlocks].scaled;
  }
};

/// For each sub-block the best of the scales within kReach of its step's nearest one, each with the minimum that least
/// squares give for its codes; then of the minima beside that. The error of each super-block.
template <class F, int kReach, class Group>
inline void choose_integers(const Group& group, const AffineFit& fit, AffineChoice<Group>& choice) {
  Lanes16 d;
  Lanes16 dmin;
  Lanes16 errors;
  choice.spread(choice.d, d);
  choice.spread(choice.dmin, dmin);
  for (int first = 0; first < kWidth; first += kVectorLanes) {
    const V zero = hn::Zero(DF());
    const V most = splat(F::kMaxScale);
    const V step = load(d, first);
    const V step_min = load(dmin, first);
    const V inverse_min = inverse_or_zero(step_min);
    const V a = load(fit.a, first);
    const V b = load(fit.b, first);
    const V w = load(group.sum_w, first);
    const V wx = load(group.sum_wx, first);
    const V inverse_w = hn::Div(splat(1.0F), w);
    const V mean_code = hn::Mul(load(fit.sum_q, first), inverse_w);
    const V centre = rounded(clamped(hn::Mul(a, inverse_or_zero(step)), zero, most));
    V best_scale = zero;
    V best_minimum = zero;
    V best_error = splat(kNoError);
    const auto attempt = [&](V scale, V minimum) __attribute__((always_inline)) {
      const V error = affine_error<F>(group, first, hn::Mul(step, scale), hn::Mul(step_min, minimum));
      const Mask better = hn::Lt(error, best_error);
      best_error = hn::IfThenElse(better, error, best_error);
      best_scale = hn::IfThenElse(better, scale, best_scale);
      best_minimum = hn::IfThenElse(better, minimum, best_minimum);
    };
    for (int i = 0; i <= 2 * kReach; ++i) {
      const V s = clamped(hn::Add(centre, splat(static_cast<float>(i - kReach))), zero, most);
      const V near_a = hn::Mul(step, s);
      // The offset that keeps the mean of the decoded values where the fit has it.
      const V near_b = hn::Max(hn::Add(b, hn::Mul(hn::Sub(near_a, a), mean_code)), zero);
      const V inverse = inverse_or_zero(near_a);
      const V q = sum_of_codes<F>(group, first, inverse, hn::Mul(near_b, inverse));
      const V best_b = hn::Mul(hn::Sub(hn::Mul(near_a, q), wx), inverse_w);
      attempt(s, rounded(clamped(hn::Mul(best_b, inverse_min), zero, most)));
    }
    const V s = best_scale;
    const V m = best_minimum;
    attempt(s, hn::Max(hn::Sub(m, splat(1.0F)), zero));
    attempt(s, hn::Min(hn::Add(m, splat(1.0F)), most));
    store(best_scale, choice.scale, first);
    store(best_minimum, choice.minimum, first);
    store(best_error, errors, first);
  }
  for (int s = 0; s < Group::kSupers; ++s) {
    choice.error[s] = 0.0;
    for (int k = 0; k < Group::kSubBlocks; ++k) choice.error[s] += static_cast<double>(errors.at[s * Group::kSubBlocks + k]);
  }
}

/// d and dmin by weighted least squares for the choice's integers and the codes that they give; `fit` becomes what the
/// choice says of each sub-block.
template <class F, class Group>
inline void refit_supers(const Group& group, AffineFit& fit, AffineChoice<Group>& choice) {
  Lanes16 d;
  Lanes16 dmin;
  Lanes16 sum_xq;
  choice.spread(choice.d, d);
  choice.spread(choice.dmin, dmin);
  for (int first = 0; first < kWidth; first += kVectorLanes) {
    const V a = hn::Mul(load(d, first), load(choice.scale, first));
    const V inverse = inverse_or_zero(a);
    const V b = hn::Mul(load(dmin, first), load(choice.minimum, first));
    const CodeSums sums = sum_codes<F>(group, first, inverse, hn::Mul(b, inverse));
    store(a, fit.a, first);
    store(b, fit.b, first);
    store(sums.q, fit.sum_q, first);
    store(sums.qq, fit.sum_qq, first);
    store(sums.xq, sum_xq, first);
  }
  for (int s = 0; s < Group::kSupers; ++s) {
    double qq = 0.0;
    double qm = 0.0;
    double mm = 0.0;
    double xq = 0.0;
    double xm = 0.0;
    for (int lane = s * Group::kSubBlocks; lane < (s + 1) * Group::kSubBlocks; ++lane) {
      const double scale = static_cast<double>(choice.scale.at[lane]);
      const double minimum = static_cast<double>(choice.minimum.at[lane]);
      qq += scale * scale * static_cast<double>(fit.sum_qq.at[lane]);
      qm += scale * minimum * static_cast<double>(fit.sum_q.at[lane]);
      mm += minimum * minimum * static_cast<double>(group.sum_w.at[lane]);
      xq += scale * static_cast<double>(sum_xq.at[lane]);
      xm += minimum * static_cast<double>(group.sum_wx.at[lane]);
    }
    const double determinant = qq * mm - qm * qm;
    double new_d = 0.0;
    double new_dmin = 0.0;
    if (determinant > 1e-9 * qq * mm) {
      new_d = (xq * mm - qm * xm) / determinant;
      new_dmin = (qm * xq - qq * xm) / determinant;
    } else if (qq > 0.0) {
      new_d = xq / qq;
    } else if (mm > 0.0) {
      new_dmin = -xm / mm;
    }
    if (new_dmin < 0.0) {
      new_dmin = 0.0;
      new_d = qq > 0.0 ? xq / qq : 0.0;
    }
    if (new_d > 0.0 || new_dmin > 0.0) {
      choice.d[s] = group.scale(new_d, s);
      choice.dmin[s] = group.scale(new_dmin, s);
    }
  }
}

/// Takes over the super-blocks of `other` that are better.
template <class Group>
inline void keep_better(AffineChoice<Group>& best, const AffineChoice<Group>& other) {
  for (int s = 0; s < Group::kSupers; ++s) {
    if (!(other.error[s] < best.error[s])) continue;
    best.d[s] = other.d[s];
    best.dmin[s] = other.dmin[s];
    best.error[s] = other.error[s];
    for (int lane = s * Group::kSubBlocks; lane < (s + 1) * Group::kSubBlocks; ++lane) {
      best.scale.at[lane] = other.scale.at[lane];
      best.minimum.at[lane] = other.minimum.at[lane];
    }
  }
}

/// Steps 2 and 3.
template <class F, class Group>
inline AffineChoice<Group> choose_affine(const Group& group) {
  constexpr int kRounds = 1;
  constexpr int kFirstReach = 3;
  constexpr int kReach = 1;
  constexpr int kSubBlocks = Group::kSubBlocks;
  AffineFit fit;
  fit_affine<F>(group, fit);
  AffineChoice<Group> choice;
  for (int s = 0; s < Group::kSupers; ++s) {
    const int first = s * kSubBlocks;
    const float d = positive_unit<F, kSubBlocks>(fit.a.at + first, fit.sum_qq.at + first);
    const float dmin = positive_unit<F, kSubBlocks>(fit.b.at + first, group.sum_w.at + first);
    choice.d[s] = group.scale(static_cast<double>(group.zero[s] ? 0.0F : d), s, true);
    choice.dmin[s] = group.scale(static_cast<double>(group.zero[s] ? 0.0F : dmin), s, true);
  }
  choose_integers<F, kFirstReach>(group, fit, choice);
  AffineChoice<Group> best = choice;
  for (int round = 0; round < kRounds; ++round) {
    refit_supers<F>(group, fit, choice);
    choose_integers<F, kReach>(group, fit, choice);
    keep_better(best, choice);
  }
  return best;
}

/// The codes of a choice, in the order of the elements.
template <class F, class Group>
inline void affine_codes(const Group& group, const AffineChoice<Group>& choice,
                         std::uint8_t (&codes)[kWidth * F::kElements]) {
  Lanes16 d;
  Lanes16 dmin;
  choice.spread(choice.d, d);
  choice.spread(choice.dmin, dmin);
  CodesByLane<F::kElements> by_lane;
  for (int first = 0; first < kWidth; first += kVectorLanes) {
    const V inverse = inverse_or_zero(hn::Mul(load(d, first), load(choice.scale, first)));
    const V b = hn::Mul(load(dmin, first), load(choice.minimum, first));
    const V shift = hn::Mul(b, inverse);
    for (int j = 0; j < F::kElements; ++j) {
      const V x = hn::Load(DF(), group.x[j] + first);
      by_lane.set(j, first, rounded(clamped(hn::Add(hn::Mul(x, inverse), shift), hn::Zero(DF()), splat(F::kMaxCode))));
    }
  }
  by_lane.copy_to(codes);
}

}  // namespace kq
}  // namespace
}  // namespace quern
