// Softmax and cross-entropy. Included only by the instruction-set files.
#pragma once

#include "math/simd/rows-inl.hpp"

namespace quern {
namespace {

using simd::DF;
using simd::VF;
namespace hn = hwy::HWY_NAMESPACE;

/// exp of one number, the same bits as in a vector.
HWY_INLINE float exp_scalar(float x) { return hn::GetLane(simd::exp_nonpositive_f32(DF(), simd::splat(x))); }

/// tanh(x / cap): the capped logit in units of the cap.
HWY_INLINE VF cap_fraction(VF x, float inverse_cap) { return simd::tanh_f32(DF(), hn::Mul(x, simd::splat(inverse_cap))); }

/// max and sum of exp(l - max) of a row of logits, where l = cap tanh(logit / cap) if kCapped.
struct RowTotals {
  float max;
  double sum;
};

/// Logits per step of row_totals: their maximum is found first, then their exponentials are summed while they are still in
/// the first-level cache (8 KiB), so that memory is read once however long the row.
constexpr std::int64_t kLogitBlock = 2048;

template <bool kCapped>
HWY_INLINE RowTotals row_totals(const float* logits, float cap, std::int64_t vocab) {
  const float inverse_cap = kCapped ? 1.0F / cap : 0.0F;
  RowTotals totals{-__builtin_inff(), 0.0};
  for (std::int64_t begin = 0; begin < vocab; begin += kLogitBlock) {
    const std::int64_t count = begin + kLogitBlock < vocab ? kLogitBlock : vocab - begin;
    const float* block = logits + begin;
    float block_max = simd::max_of_row(block, count);
    // tanh is monotonic: the cap of the largest is the largest capped one.
    if constexpr (kCapped) block_max = cap * hn::GetLane(cap_fraction(simd::splat(block_max), inverse_cap));
    const float max = block_max > totals.max ? block_max : totals.max;
    // A row that starts with -inf only: count from 0, exp(-inf) is 0 all the same.
    const float shift = max == -__builtin_inff() ? 0.0F : max;
    const double sum = simd::sum_row(count, [&](auto vector, std::int64_t i, VF partial) QUERN_INLINE_LAMBDA {
      VF l = vector.load(block + i);
      if constexpr (kCapped) l = hn::Mul(cap_fraction(l, inverse_cap), simd::splat(cap));
      const VF e = simd::exp_nonpositive_f32(DF(), hn::Sub(l, simd::splat(shift)));
      return hn::Add(partial, vector.or_else(e, 0.0F));
    });
    totals.sum = totals.sum * static_cast<double>(exp_scalar(totals.max - shift)) + sum;
    totals.max = max;
  }
  return totals;
}

/// dl = (exp(l - max) / sum - onehot) scale; capped, times dl/dlogit = 1 - tanh(logit / cap)^2.
template <bool kCapped, class T>
HWY_INLINE void cross_entropy_gradient(const float* logits, std::int32_t target, float scale, float cap, RowTotals totals,
                                       T* dlogits, std::int64_t vocab) {
  const float inverse_cap = kCapped ? 1.0F / cap : 0.0F;
  const VF factor = simd::splat(static_cast<float>(static_cast<double>(scale) / totals.sum));
  const VF max = simd::splat(totals.max);
  simd::for_each_vector(0, vocab, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
    VF l = vector.load(logits + i);
    if constexpr (kCapped) {
      const VF t = cap_fraction(l, inverse_cap);
      const VF e = simd::exp_nonpositive_f32(DF(), hn::Sub(hn::Mul(t, simd::splat(cap)), max));
      vector.store(hn::Mul(hn::Mul(e, factor), hn::NegMulAdd(t, t, simd::splat(1.0F))), dlogits + i);
    } else {
      vector.store(hn::Mul(simd::exp_nonpositive_f32(DF(), hn::Sub(l, max)), factor), dlogits + i);
    }
  });
  // The target's entry anew from f32: p - 1 of a p already rounded to bf16 would lose what is left near p = 1.
  float l = logits[target];
  float slope = scale;
  if constexpr (kCapped) {
    const float t = hn::GetLane(cap_fraction(simd::splat(l), inverse_cap));
    l = cap * t;
    slope = scale * (1.0F - t * t);
  }
  const float p = static_cast<float>(static_cast<double>(exp_scalar(l - totals.max)) / totals.sum);
  simd::LastVector{1}.store(simd::splat((p - 1.0F) * slope), dlogits + target);
}

template <bool kCapped, class T>
HWY_INLINE float cross_entropy_row(const float* logits, std::int32_t target, float scale, float cap, T* dlogits,
                                   std::int64_t vocab) {
  const RowTotals totals = row_totals<kCapped>(logits, cap, vocab);
  if (dlogits != nullptr) cross_entropy_gradient<kCapped>(logits, target, scale, cap, totals, dlogits, vocab);
  float l = logits[target];
  if constexpr (kCapped) l = cap * hn::GetLane(cap_fraction(simd::splat(l), 1.0F / cap));
  return static_cast<float>(__builtin_log(totals.sum) + (static_cast<double>(totals.max) - static_cast<double>(l)));
}

template <class T>
void cross_entropy_rows(const float* logits, std::int64_t logits_stride, const std::int32_t* target, const float* row_scale,
                        float soft_cap, float* loss, T* dlogits, std::int64_t dlogits_stride, std::int64_t rows,
                        std::int64_t vocab) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = logits + r * logits_stride;
    T* gradient = dlogits == nullptr ? nullptr : dlogits + r * dlogits_stride;
    if (row_scale[r] == 0.0F) {
      loss[r] = 0.0F;
      if (gradient != nullptr) {
        __builtin_memset(static_cast<void*>(gradient), 0, static_cast<std::size_t>(vocab) * sizeof(T));
      }
    } else if (soft_cap > 0.0F) {
      loss[r] = cross_entropy_row<true>(row, target[r], row_scale[r], soft_cap, gradient, vocab);
    } else {
      loss[r] = cross_entropy_row<false>(row, target[r], row_scale[r], 0.0F, gradient, vocab);
    }
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
