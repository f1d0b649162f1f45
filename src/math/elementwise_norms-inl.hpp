// RMSNorm and LayerNorm, forward and backward. Included only by the instruction-set files.
//
// Backward, with h = (x - mean) rstd (RMSNorm: mean 0) and g = dy * weight: h depends on x directly and through mean and
// rstd, which gives
//   dx = rstd (g - mean(g) - h mean(g h)), without mean(g) for RMSNorm; dweight = sum over rows of dy h; dbias = of dy.
#pragma once

#include "math/simd/rows-inl.hpp"

namespace quern {
namespace {

using simd::DF;
using simd::VF;
namespace hn = hwy::HWY_NAMESPACE;

/// 1 / sqrt(sum_of_squares / cols + eps).
HWY_INLINE float reciprocal_deviation(double sum_of_squares, std::int64_t cols, float eps) {
  return static_cast<float>(1.0 / __builtin_sqrt(sum_of_squares / static_cast<double>(cols) + static_cast<double>(eps)));
}

template <class X, class Y>
void rms_norm_rows(const X* x, std::int64_t x_stride, const float* weight, float eps, Y* y, std::int64_t y_stride,
                   float* rstd, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r, x += x_stride, y += y_stride) {
    const double squares = simd::sum_row(cols, [&](auto vector, std::int64_t i, VF sum) QUERN_INLINE_LAMBDA {
      const VF v = vector.load(x + i);
      return hn::MulAdd(v, v, sum);
    });
    const float row_rstd = reciprocal_deviation(squares, cols, eps);
    if (rstd != nullptr) rstd[r] = row_rstd;
    const VF scale = simd::splat(row_rstd);
    simd::for_each_vector(0, cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
      vector.store(hn::Mul(hn::Mul(vector.load(x + i), scale), vector.load(weight + i)), y + i);
    });
  }
}

template <class T>
void layer_norm_rows(const float* x, std::int64_t x_stride, const float* weight, const float* bias, float eps, T* y,
                     std::int64_t y_stride, float* mean, float* rstd, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r, x += x_stride, y += y_stride) {
    const double sum_x = simd::sum_row(
        cols, [&](auto vector, std::int64_t i, VF sum) QUERN_INLINE_LAMBDA { return hn::Add(sum, vector.load(x + i)); });
    const float row_mean = static_cast<float>(sum_x / static_cast<double>(cols));
    const VF center = simd::splat(row_mean);
    const double squares = simd::sum_row(cols, [&](auto vector, std::int64_t i, VF sum) QUERN_INLINE_LAMBDA {
      const VF v = vector.or_else(hn::Sub(vector.load(x + i), center), 0.0F);
      return hn::MulAdd(v, v, sum);
    });
    const float row_rstd = reciprocal_deviation(squares, cols, eps);
    if (mean != nullptr) mean[r] = row_mean;
    if (rstd != nullptr) rstd[r] = row_rstd;
    const VF scale = simd::splat(row_rstd);
    if (bias != nullptr) {
      simd::for_each_vector(0, cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
        const VF h = hn::Mul(hn::Sub(vector.load(x + i), center), scale);
        vector.store(hn::MulAdd(h, vector.load(weight + i), vector.load(bias + i)), y + i);
      });
    } else {
      simd::for_each_vector(0, cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
        const VF h = hn::Mul(hn::Sub(vector.load(x + i), center), scale);
        vector.store(hn::Mul(h, vector.load(weight + i)), y + i);
      });
    }
  }
}

/// Backward of RMSNorm over rows of X with gradients Dy and Dx; kAccumulate: dx (+=).
template <bool kAccumulate, class Dy, class X, class Dx>
void rms_norm_backward_rows(const Dy* dy, std::int64_t dy_stride, const X* x, std::int64_t x_stride, const float* weight,
                            const float* rstd, Dx* dx, std::int64_t dx_stride, float* dweight, std::int64_t rows,
                            std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r, dy += dy_stride, x += x_stride, dx += dx_stride) {
    const double sum_gx = simd::sum_row(cols, [&](auto vector, std::int64_t i, VF sum) QUERN_INLINE_LAMBDA {
      return hn::MulAdd(hn::Mul(vector.load(dy + i), vector.load(weight + i)), vector.load(x + i), sum);
    });
    const double scale = static_cast<double>(rstd[r]);
    const VF row_rstd = simd::splat(rstd[r]);
    // h mean(g h) = x * (rstd^2 sum(g x) / cols).
    const VF mean_gh = simd::splat(static_cast<float>(scale * scale * sum_gx / static_cast<double>(cols)));
    simd::for_each_vector(0, cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
      const VF v = vector.load(x + i);
      const VF d = vector.load(dy + i);
      vector.store(hn::MulAdd(d, hn::Mul(v, row_rstd), vector.load(dweight + i)), dweight + i);
      const VF unscaled = hn::NegMulAdd(v, mean_gh, hn::Mul(d, vector.load(weight + i)));
      if constexpr (kAccumulate) {
        vector.store(hn::MulAdd(unscaled, row_rstd, vector.load(dx + i)), dx + i);
      } else {
        vector.store(hn::Mul(unscaled, row_rstd), dx + i);
      }
    });
  }
}

void layer_norm_backward_rows(const float* dy, std::int64_t dy_stride, const float* x, std::int64_t x_stride,
                              const float* weight, const float* mean, const float* rstd, float* dx, std::int64_t dx_stride,
                              float* dweight, float* dbias, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; ++r, dy += dy_stride, x += x_stride, dx += dx_stride) {
    const VF center = simd::splat(mean[r]);
    const VF row_rstd = simd::splat(rstd[r]);
    const double sum_g = simd::sum_row(cols, [&](auto vector, std::int64_t i, VF sum) QUERN_INLINE_LAMBDA {
      return hn::MulAdd(vector.load(dy + i), vector.load(weight + i), sum);
    });
    // dy is 0 past the row's end, so it does not matter that h is not.
    const double sum_gh = simd::sum_row(cols, [&](auto vector, std::int64_t i, VF sum) QUERN_INLINE_LAMBDA {
      const VF h = hn::Mul(hn::Sub(vector.load(x + i), center), row_rstd);
      return hn::MulAdd(hn::Mul(vector.load(dy + i), vector.load(weight + i)), h, sum);
    });
    const VF mean_g = simd::splat(static_cast<float>(sum_g / static_cast<double>(cols)));
    const VF mean_gh = simd::splat(static_cast<float>(sum_gh / static_cast<double>(cols)));
    simd::for_each_vector(0, cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
      const VF h = hn::Mul(hn::Sub(vector.load(x + i), center), row_rstd);
      const VF d = vector.load(dy + i);
      vector.store(hn::MulAdd(d, h, vector.load(dweight + i)), dweight + i);
      if (dbias != nullptr) vector.store(hn::Add(d, vector.load(dbias + i)), dbias + i);
      const VF g = hn::Mul(d, vector.load(weight + i));
      const VF unscaled = hn::NegMulAdd(h, mean_gh, hn::Sub(g, mean_g));
      vector.store(hn::MulAdd(unscaled, row_rstd, vector.load(dx + i)), dx + i);
    });
  }
}

}  // namespace
}  // namespace quern
