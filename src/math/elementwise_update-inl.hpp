// Operations on whole parameter arrays: addition, the sum of squares, AdamW, momentum. Included only by the instruction-set
// files.
#pragma once

#include "math/simd/rows-inl.hpp"

namespace quern {
namespace {

using simd::DF;
using simd::VF;
namespace hn = hwy::HWY_NAMESPACE;

void add_to(const float* x, float* y, std::int64_t count) {
  simd::for_each_vector(0, count, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
    vector.store(hn::Add(vector.load(y + i), vector.load(x + i)), y + i);
  });
}

/// Four vectors of double sums; a square of an f32 is exact in double.
double sum_of_squares_of(const float* x, std::int64_t count) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<float, decltype(dd)> df;
  constexpr std::int64_t kDoubles = static_cast<std::int64_t>(HWY_LANES(double));
  using VD = hn::Vec<decltype(dd)>;
  const auto load = [=](const float* p) QUERN_INLINE_LAMBDA { return hn::PromoteTo(dd, hn::LoadU(df, p)); };
  VD s0 = hn::Zero(dd), s1 = s0, s2 = s0, s3 = s0;
  std::int64_t i = 0;
  for (; i + 4 * kDoubles <= count; i += 4 * kDoubles) {
    const VD x0 = load(x + i), x1 = load(x + i + kDoubles), x2 = load(x + i + 2 * kDoubles), x3 = load(x + i + 3 * kDoubles);
    s0 = hn::MulAdd(x0, x0, s0);
    s1 = hn::MulAdd(x1, x1, s1);
    s2 = hn::MulAdd(x2, x2, s2);
    s3 = hn::MulAdd(x3, x3, s3);
  }
  double total = hn::GetLane(hn::SumOfLanes(dd, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < count; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

/// One pass: each of w, m, v is read and written once, the gradient read once.
void adamw_update(float* w, const float* gradient, float* m, float* v, std::int64_t count, const AdamWStep& step) {
  const VF gradient_scale = simd::splat(step.gradient_scale);
  const VF beta1 = simd::splat(step.beta1), rest1 = simd::splat(1.0F - step.beta1);
  const VF beta2 = simd::splat(step.beta2), rest2 = simd::splat(1.0F - step.beta2);
  const VF decay = simd::splat(step.learning_rate * step.weight_decay);
  const VF rate = simd::splat(step.learning_rate / step.bias_correction1);
  const VF inverse_correction2 = simd::splat(1.0F / step.bias_correction2);
  const VF eps = simd::splat(step.eps);
  simd::for_each_vector(0, count, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
    const VF g = hn::Mul(vector.load(gradient + i), gradient_scale);
    const VF first = hn::MulAdd(beta1, vector.load(m + i), hn::Mul(rest1, g));
    const VF second = hn::MulAdd(beta2, vector.load(v + i), hn::Mul(hn::Mul(rest2, g), g));
    vector.store(first, m + i);
    vector.store(second, v + i);
    const VF old = vector.load(w + i);
    const VF decayed = hn::NegMulAdd(decay, old, old);
    const VF deviation = hn::Add(hn::Sqrt(hn::Mul(second, inverse_correction2)), eps);
    vector.store(hn::Sub(decayed, hn::Div(hn::Mul(rate, first), deviation)), w + i);
  });
}

void nesterov_update(const float* gradient, float gradient_scale, float momentum, float* m, float* direction,
                     std::int64_t count) {
  const VF scale = simd::splat(gradient_scale), keep = simd::splat(momentum);
  simd::for_each_vector(0, count, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
    const VF g = hn::Mul(vector.load(gradient + i), scale);
    const VF sum = hn::MulAdd(keep, vector.load(m + i), g);
    vector.store(sum, m + i);
    vector.store(hn::MulAdd(keep, sum, g), direction + i);
  });
}

void axpby_of(float a, const float* x, float b, float* y, std::int64_t count) {
  const VF va = simd::splat(a), vb = simd::splat(b);
  if (b == 0.0F) {
    simd::for_each_vector(0, count, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
      vector.store(hn::Mul(va, vector.load(x + i)), y + i);
    });
    return;
  }
  simd::for_each_vector(0, count, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
    vector.store(hn::MulAdd(va, vector.load(x + i), hn::Mul(vb, vector.load(y + i))), y + i);
  });
}

}  // namespace
}  // namespace quern
