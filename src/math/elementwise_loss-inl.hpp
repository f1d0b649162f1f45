// Softmax and cross-entropy. Included only by the instruction-set files.
#pragma once

#include "math/elementwise_kernels.hpp"
#include "math/simd/rows-inl.hpp"

namespace quern {
namespace {

using simd::DF;
using simd::VF;
namespace hn = hwy::HWY_NAMESPACE;

/// exp(x) for x <= 0 as the loss needs it: relative error at most 2e-7 (1 + |x|), so 1e-7 absolute. exp(-inf) = 0; NaN
/// stays.
HWY_INLINE VF exp_difference(VF x) {
#if HWY_TARGET == HWY_AVX3
  // 2^t with hardware's floor and scale; minimax polynomial for [0, 1].
  const VF t = hn::Mul(x, simd::splat(1.44269504F));
  const VF f{_mm512_reduce_ps(t.raw, 1)};  // t - floor(t)
  VF p = hn::MulAdd(simd::splat(0.00186713052F), f, simd::splat(0.00901702978F));
  p = hn::MulAdd(p, f, simd::splat(0.0557999127F));
  p = hn::MulAdd(p, f, simd::splat(0.240164444F));
  p = hn::MulAdd(p, f, simd::splat(0.693151295F));
  p = hn::MulAdd(p, f, simd::splat(1.0F));
  return VF{_mm512_scalef_ps(p.raw, t.raw)};
#else
  return simd::exp_f32(DF(), x);
#endif
}

/// The same bits of one number.
HWY_INLINE float exp_scalar(float x) { return hn::GetLane(exp_difference(simd::splat(x))); }

/// tanh(x / cap): the capped logit in units of the cap.
HWY_INLINE VF cap_fraction(VF x, float inverse_cap) { return simd::tanh_f32(DF(), hn::Mul(x, simd::splat(inverse_cap))); }

/// Exponentials count from the maximum of the row's first block, so that all have one factor in the end. Where a later block
/// rises above that by more than this (exp would overflow at 88), they count from its maximum.
constexpr float kMaxRise = 40.0F;

/// One block of a row: its maximum is found first, then its exponentials are summed while it is still in first-level cache.
/// Where a gradient is wanted they are stored, times the slope of the cap; `before` of them were.
template <bool kCapped, bool kGradient, class T>
HWY_INLINE void cross_entropy_block(const float* logits, std::int64_t count, float cap, CrossEntropyRow& row,
                                    T* exponentials, std::int64_t before) {
  const float inverse_cap = kCapped ? 1.0F / cap : 0.0F;
  float max = simd::max_of_row(logits, count);
  // tanh is monotonic: the cap of the largest is the largest capped one.
  if constexpr (kCapped) max = cap * hn::GetLane(cap_fraction(simd::splat(max), inverse_cap));
  if (before == 0) {
    row.shift = max == -__builtin_inff() ? 0.0F : max;
  } else if (max > row.shift + kMaxRise) {
    const float fall = exp_scalar(row.shift - max);
    row.sum *= static_cast<double>(fall);
    row.shift = max;
    if constexpr (kGradient) {
      simd::for_each_vector(0, before, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
        T* at = exponentials - before + i;
        vector.store(hn::Mul(vector.load(at), simd::splat(fall)), at);
      });
    }
  }
  const VF shift = simd::splat(row.shift);
  row.sum += simd::sum_row(count, [&](auto vector, std::int64_t i, VF partial) QUERN_INLINE_LAMBDA {
    VF l = vector.load(logits + i);
    VF slope = simd::splat(1.0F);
    if constexpr (kCapped) {
      const VF t = cap_fraction(l, inverse_cap);
      l = hn::Mul(t, simd::splat(cap));
      slope = hn::NegMulAdd(t, t, slope);
    }
    const VF e = exp_difference(hn::Sub(l, shift));
    if constexpr (kGradient) vector.store(kCapped ? hn::Mul(e, slope) : e, exponentials + i);
    return hn::Add(partial, vector.or_else(e, 0.0F));
  });
}

template <bool kCapped, class T>
HWY_INLINE void cross_entropy_columns_of(const CrossEntropyColumns<T>& c) {
  for (std::int64_t r = 0; r < c.rows; ++r) {
    if (c.row_scale[r] == 0.0F) continue;
    const float* logits = c.logits + r * c.logits_stride;
    CrossEntropyRow& row = c.row[r];
    for (std::int64_t begin = 0; begin < c.cols; begin += kCrossEntropyBlock) {
      const std::int64_t count = begin + kCrossEntropyBlock < c.cols ? kCrossEntropyBlock : c.cols - begin;
      const std::int64_t before = c.first_col + begin;
      if (c.exponentials != nullptr) {
        cross_entropy_block<kCapped, true>(logits + begin, count, c.soft_cap, row,
                                           c.exponentials + r * c.exponentials_stride + begin, before);
      } else {
        cross_entropy_block<kCapped, false, T>(logits + begin, count, c.soft_cap, row, nullptr, before);
      }
    }
    const std::int64_t at = c.target[r] - c.first_col;
    if (at < 0 || at >= c.cols) continue;
    row.target_logit = logits[at];
    if constexpr (kCapped) {
      const float t = hn::GetLane(cap_fraction(simd::splat(logits[at]), 1.0F / c.soft_cap));
      row.target_logit = c.soft_cap * t;
      row.target_slope = 1.0F - t * t;
    }
  }
}

template <class T>
void cross_entropy_columns(const CrossEntropyColumns<T>& columns) {
  if (columns.soft_cap > 0.0F) {
    cross_entropy_columns_of<true>(columns);
  } else {
    cross_entropy_columns_of<false>(columns);
  }
}

template <class T>
void cross_entropy_targets(const CrossEntropyRow* row, const std::int32_t* target, const float* row_scale, T* exponentials,
                           std::int64_t exponentials_stride, float* factor, std::int64_t rows, std::int64_t vocab) {
  for (std::int64_t r = 0; r < rows; ++r) {
    T* e = exponentials + r * exponentials_stride;
    if (row_scale[r] == 0.0F) {
      factor[r] = 0.0F;
      __builtin_memset(static_cast<void*>(e), 0, static_cast<std::size_t>(vocab) * sizeof(T));
      continue;
    }
    factor[r] = static_cast<float>(static_cast<double>(row_scale[r]) / row[r].sum);
    // Anew from f32: p - 1 of a p already rounded to bf16 would lose what is left near p = 1.
    const double rest = static_cast<double>(exp_scalar(row[r].target_logit - row[r].shift)) - row[r].sum;
    simd::LastVector{1}.store(simd::splat(static_cast<float>(rest) * row[r].target_slope), e + target[r]);
  }
}

void softmax_rows(float* x, std::int64_t stride, float temperature, std::int64_t rows, std::int64_t cols) {
  const VF inverse_temperature = simd::splat(1.0F / temperature);
  for (std::int64_t r = 0; r < rows; ++r) {
    float* row = x + r * stride;
    const float row_max = simd::max_of_row(row, cols);
    const VF max = simd::splat(row_max == -__builtin_inff() ? 0.0F : row_max);
    const double sum = simd::sum_row(cols, [&](auto vector, std::int64_t i, VF partial) QUERN_INLINE_LAMBDA {
      const VF e = simd::exp_nonpositive_f32(DF(), hn::Mul(hn::Sub(vector.load(row + i), max), inverse_temperature));
      vector.store(e, row + i);
      return hn::Add(partial, vector.or_else(e, 0.0F));
    });
    const VF scale = simd::splat(sum == 0.0 ? 0.0F : static_cast<float>(1.0 / sum));  // 0: every entry was -inf
    simd::for_each_vector(0, cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
      vector.store(hn::Mul(vector.load(row + i), scale), row + i);
    });
  }
}

}  // namespace
}  // namespace quern
