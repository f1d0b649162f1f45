// Activations and gated units, forward and backward. Included only by the instruction-set files.
#pragma once

#include "math/elementwise_kernels.hpp"
#include "math/simd/rows-inl.hpp"

namespace quern {
namespace {

using simd::DF;
using simd::VF;
namespace hn = hwy::HWY_NAMESPACE;

struct ValueAndSlope {
  VF value;
  VF slope;
};

/// As precise as results stored as T need.
template <class T>
HWY_INLINE VF sigmoid_for(VF x) {
  if constexpr (sizeof(T) == sizeof(bf16)) return simd::short_sigmoid_f32(DF(), x);
  return simd::sigmoid_f32(DF(), x);
}

// The activations, for results stored as T.

template <class T>
struct Identity {
  static HWY_INLINE VF value(VF x) { return x; }
  static HWY_INLINE ValueAndSlope with_slope(VF x) { return {x, simd::splat(1.0F)}; }
};

/// 0.5 (1 + tanh u) = sigmoid(2u), so gelu(x) = x s with s = sigmoid(2u), 2u = 2 sqrt(2/pi) (x + 0.044715 x^3), and
/// gelu'(x) = s + x s (1 - s) (2u)'.
template <class T>
struct GeluTanh {
  static constexpr float kSlope = 1.59576912F;  // 2 sqrt(2/pi)
  static constexpr float kCubic = 0.044715F * 1.59576912F;

  static HWY_INLINE VF gate(VF x, VF x2) {
    return sigmoid_for<T>(hn::Mul(x, hn::MulAdd(x2, simd::splat(kCubic), simd::splat(kSlope))));
  }
  static HWY_INLINE VF value(VF x) { return hn::Mul(x, gate(x, hn::Mul(x, x))); }
  static HWY_INLINE ValueAndSlope with_slope(VF x) {
    const VF x2 = hn::Mul(x, x);
    const VF s = gate(x, x2);
    const VF value = hn::Mul(x, s);
    const VF du = hn::MulAdd(x2, simd::splat(3.0F * kCubic), simd::splat(kSlope));
    return {value, hn::MulAdd(hn::NegMulAdd(value, s, value), du, s)};
  }
};

/// x Phi(x); the derivative is Phi(x) + x phi(x), phi the normal density.
template <class T>
struct GeluErf {
  static HWY_INLINE VF cdf(VF x) {
    const VF half = simd::splat(0.5F);
    return hn::MulAdd(half, simd::erf_f32(DF(), hn::Mul(x, simd::splat(0.707106781F))), half);
  }
  static HWY_INLINE VF value(VF x) { return hn::Mul(x, cdf(x)); }
  static HWY_INLINE ValueAndSlope with_slope(VF x) {
    const VF phi =
        hn::Mul(simd::splat(0.398942280F), simd::exp_nonpositive_f32(DF(), hn::Mul(hn::Mul(x, x), simd::splat(-0.5F))));
    const VF c = cdf(x);
    return {hn::Mul(x, c), hn::MulAdd(x, phi, c)};
  }
};

/// x s with s = sigmoid(x); the derivative is s + x s (1 - s).
template <class T>
struct Silu {
  static HWY_INLINE VF value(VF x) { return hn::Mul(x, sigmoid_for<T>(x)); }
  static HWY_INLINE ValueAndSlope with_slope(VF x) {
    const VF s = sigmoid_for<T>(x);
    const VF value = hn::Mul(x, s);
    return {value, hn::Add(hn::NegMulAdd(value, s, value), s)};
  }
};

template <class T>
struct Relu2 {
  static HWY_INLINE VF positive(VF x) { return hn::IfThenZeroElse(hn::Lt(x, hn::Zero(DF())), x); }
  static HWY_INLINE VF value(VF x) { return hn::Mul(positive(x), positive(x)); }
  static HWY_INLINE ValueAndSlope with_slope(VF x) {
    const VF p = positive(x);
    return {hn::Mul(p, p), hn::Add(p, p)};
  }
};

/// Calls work(function) with the struct of `activation`.
template <class T, class Work>
HWY_INLINE void with_activation(Activation activation, const Work& work) {
  switch (activation) {
    case Activation::none:
      return work(Identity<T>{});
    case Activation::gelu_tanh:
      return work(GeluTanh<T>{});
    case Activation::gelu_erf:
      return work(GeluErf<T>{});
    case Activation::silu:
      return work(Silu<T>{});
    case Activation::relu2:
      return work(Relu2<T>{});
  }
}

template <class T>
void activation_rows(Activation activation, const T* pre, std::int64_t pre_stride, T* out, std::int64_t out_stride,
                     std::int64_t rows, std::int64_t cols) {
  with_activation<T>(activation, [=](auto function) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const T* x = pre + r * pre_stride;
      T* y = out + r * out_stride;
      simd::for_each_vector(0, cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
        vector.store(function.value(vector.load(x + i)), y + i);
      });
    }
  });
}

template <class T>
void activation_epilogue(const ActivationEpilogue<T>& e) {
  with_activation<T>(e.activation, [&](auto function) {
    for (std::int64_t r = 0; r < e.rows; ++r) {
      const float* sum = e.sum + r * e.sum_stride;
      T* pre = e.pre == nullptr ? nullptr : e.pre + r * e.pre_stride;
      T* out = e.out + r * e.out_stride;
      const auto with_bias = [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
        const VF x = vector.load(sum + i);
        return e.bias == nullptr ? x : hn::Add(x, vector.load(e.bias + i));
      };
      const DF d;
      std::int64_t begin = 0;
      for (; begin + 2 * simd::kLanes <= e.cols; begin += 2 * simd::kLanes) {
        const VF x0 = with_bias(simd::WholeVector{}, begin);
        const VF x1 = with_bias(simd::WholeVector{}, begin + simd::kLanes);
        simd::store_pair(d, function.value(x0), function.value(x1), false, out + begin);
        if (pre != nullptr) simd::store_pair(d, x0, x1, e.stream_pre, pre + begin);
      }
      simd::for_each_vector(begin, e.cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
        const VF x = with_bias(vector, i);
        vector.store(function.value(x), out + i);
        if (pre != nullptr) vector.store(x, pre + i);
      });
    }
  });
  if (e.stream_pre) simd::end_stream();
}

template <class T>
void activation_backward_rows(const ActivationBackward<T>& b) {
  with_activation<T>(b.activation, [&](auto function) {
    for (std::int64_t r = 0; r < b.rows; ++r) {
      const float* dy = b.dout + r * b.dout_stride;
      const T* x = b.pre + r * b.pre_stride;
      T* dx = b.dpre + r * b.dpre_stride;
      T* act = b.act == nullptr ? nullptr : b.act + r * b.act_stride;
      T* kept = b.dpre_kept == nullptr ? nullptr : b.dpre_kept + r * b.dpre_stride;
      const DF d;
      std::int64_t begin = 0;
      for (; begin + 2 * simd::kLanes <= b.cols; begin += 2 * simd::kLanes) {
        const ValueAndSlope f0 = function.with_slope(simd::load_f32(d, x + begin));
        const ValueAndSlope f1 = function.with_slope(simd::load_f32(d, x + begin + simd::kLanes));
        const VF d0 = hn::Mul(simd::load_f32(d, dy + begin), f0.slope);
        const VF d1 = hn::Mul(simd::load_f32(d, dy + begin + simd::kLanes), f1.slope);
        simd::store_pair(d, d0, d1, false, dx + begin);
        if (kept != nullptr) simd::store_pair(d, d0, d1, true, kept + begin);
        if (act != nullptr) simd::store_pair(d, f0.value, f1.value, false, act + begin);
      }
      simd::for_each_vector(begin, b.cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
        const ValueAndSlope f = function.with_slope(vector.load(x + i));
        const VF dpre = hn::Mul(vector.load(dy + i), f.slope);
        vector.store(dpre, dx + i);
        if (kept != nullptr) vector.store(dpre, kept + i);
        if (act != nullptr) vector.store(f.value, act + i);
      });
    }
  });
  if (b.dpre_kept != nullptr) simd::end_stream();
}

template <class T>
void gated_rows(Activation activation, const T* gate_up, std::int64_t gate_up_stride, T* out, std::int64_t out_stride,
                std::int64_t rows, std::int64_t width) {
  with_activation<T>(activation, [=](auto function) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const T* gate = gate_up + r * gate_up_stride;
      const T* up = gate + width;
      T* y = out + r * out_stride;
      simd::for_each_vector(0, width, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
        vector.store(hn::Mul(function.value(vector.load(gate + i)), vector.load(up + i)), y + i);
      });
    }
  });
}

constexpr float kClampedSwigluLimit = 7.0F;
constexpr float kClampedSwigluSlope = 1.702F;

template <class T>
void clamped_swiglu_rows(const T* gate_up, std::int64_t gate_up_stride, T* out, std::int64_t out_stride, std::int64_t rows,
                         std::int64_t width) {
  const DF d;
  const VF limit = hn::Set(d, kClampedSwigluLimit);
  const VF slope = hn::Set(d, kClampedSwigluSlope);
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* gate = gate_up + r * gate_up_stride;
    const T* up = gate + width;
    T* y = out + r * out_stride;
    simd::for_each_vector(0, width, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
      const VF g = hn::Min(vector.load(gate + i), limit);
      const VF u = hn::Max(hn::Min(vector.load(up + i), limit), hn::Neg(limit));
      const VF glu = hn::Mul(g, sigmoid_for<T>(hn::Mul(slope, g)));
      vector.store(hn::MulAdd(glu, u, glu), y + i);
    });
  }
}

/// With h = g s, s = sigmoid(slope g): y = h (u + 1), dh/dg = s + slope h (1 - s).
template <class T>
void clamped_swiglu_backward_rows(const ActivationBackward<T>& b) {
  const DF d;
  const VF limit = hn::Set(d, kClampedSwigluLimit);
  const VF slope = hn::Set(d, kClampedSwigluSlope);
  for (std::int64_t r = 0; r < b.rows; ++r) {
    const float* dy = b.dout + r * b.dout_stride;
    const T* gate = b.pre + r * b.pre_stride;
    const T* up = gate + b.cols;
    T* dgate = b.dpre + r * b.dpre_stride;
    T* dup = dgate + b.cols;
    T* act = b.act == nullptr ? nullptr : b.act + r * b.act_stride;
    simd::for_each_vector(0, b.cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
      const VF raw_gate = vector.load(gate + i);
      const VF raw_up = vector.load(up + i);
      const VF dy_i = vector.load(dy + i);
      const VF g = hn::Min(raw_gate, limit);
      const VF u = hn::Max(hn::Min(raw_up, limit), hn::Neg(limit));
      const VF s = sigmoid_for<T>(hn::Mul(slope, g));
      const VF h = hn::Mul(g, s);
      const VF dh = hn::MulAdd(hn::Mul(slope, h), hn::NegMulAdd(s, hn::Set(d, 1.0F), hn::Set(d, 1.0F)), s);
      const VF to_gate = hn::Mul(hn::MulAdd(dy_i, u, dy_i), dh);
      const VF to_up = hn::Mul(dy_i, h);
      vector.store(hn::IfThenZeroElse(hn::Gt(raw_gate, limit), to_gate), dgate + i);
      vector.store(hn::IfThenZeroElse(hn::Gt(hn::Abs(raw_up), limit), to_up), dup + i);
      if (act != nullptr) vector.store(hn::MulAdd(h, u, h), act + i);
    });
  }
}

template <class T>
void gated_backward_rows(const ActivationBackward<T>& b) {
  with_activation<T>(b.activation, [&](auto function) {
    for (std::int64_t r = 0; r < b.rows; ++r) {
      const float* dy = b.dout + r * b.dout_stride;
      const T* gate = b.pre + r * b.pre_stride;
      const T* up = gate + b.cols;
      T* dgate = b.dpre + r * b.dpre_stride;
      T* dup = dgate + b.cols;
      T* act = b.act == nullptr ? nullptr : b.act + r * b.act_stride;
      simd::for_each_vector(0, b.cols, [&](auto vector, std::int64_t i) QUERN_INLINE_LAMBDA {
        const VF d = vector.load(dy + i);
        const VF u = vector.load(up + i);
        const ValueAndSlope f = function.with_slope(vector.load(gate + i));
        vector.store(hn::Mul(hn::Mul(d, u), f.slope), dgate + i);
        vector.store(hn::Mul(d, f.value), dup + i);
        if (act != nullptr) vector.store(hn::Mul(f.value, u), act + i);
      });
    }
  });
}

}  // namespace
}  // namespace quern
