// Activations and gated units against double-precision formulas; their derivatives against central differences.
#include <algorithm>
#include <array>
#include <numbers>

#include "elementwise_support.hpp"

namespace quern::test {
namespace {

constexpr Activation kActivations[] = {Activation::none, Activation::gelu_tanh, Activation::gelu_erf, Activation::silu,
                                       Activation::relu2};

double gelu_u(double x) { return std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x); }

double value(Activation activation, double x) {
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::gelu_tanh:
      return 0.5 * x * (1.0 + std::tanh(gelu_u(x)));
    case Activation::gelu_erf:
      return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
    case Activation::silu:
      return x / (1.0 + std::exp(-x));
    case Activation::relu2:
      return x > 0.0 ? x * x : 0.0;
  }
  return 0.0;
}

double slope(Activation activation, double x) {
  switch (activation) {
    case Activation::none:
      return 1.0;
    case Activation::gelu_tanh: {
      const double t = std::tanh(gelu_u(x));
      return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * std::sqrt(2.0 / std::numbers::pi) * (1.0 + 3.0 * 0.044715 * x * x);
    }
    case Activation::gelu_erf:
      return 0.5 * (1.0 + std::erf(x / std::numbers::sqrt2)) +
             x * std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);
    case Activation::silu: {
      const double s = 1.0 / (1.0 + std::exp(-x));
      return s * (1.0 + x * (1.0 - s));
    }
    case Activation::relu2:
      return x > 0.0 ? 2.0 * x : 0.0;
  }
  return 0.0;
}

/// Relative error of 1 / (1 + exp(-x)) as used for results stored as T: short_sigmoid_f32's 6e-5 for bf16.
template <class T>
constexpr double kSigmoidError = sizeof(T) == sizeof(float) ? 3e-7 : 6e-5;

/// Error of arithmetic in value and slope: erf's 2e-7, or a few roundings of terms no larger than 1 + |x| + x^2 (relu2); and
/// the sigmoid's, once in the value and up to three times in the slope s + x s (1 - s) u'.
template <class T>
double arithmetic(Activation activation, double x) {
  const bool sigmoid = activation == Activation::gelu_tanh || activation == Activation::silu;
  const double size = activation == Activation::relu2 ? x * x + std::abs(x) : 1.0 + std::abs(x);
  return (0x1p-21 + (sigmoid ? 2.0 * kSigmoidError<T> : 0.0)) * size;
}

TEST(ActivationReference, SlopeAgreesWithCentralDifferences) {
  for (const Activation activation : kActivations) {
    for (double x = -6.0; x < 6.0; x += 0.173) {
      std::vector<double> point = {x};
      const double difference = central_difference(point, 0, [&] { return value(activation, point[0]); });
      EXPECT_NEAR(slope(activation, x), difference, 1e-8) << "activation " << static_cast<int>(activation) << " x " << x;
    }
  }
}

/// Numbers around 0, with some far out on both sides.
class Inputs {
 public:
  double operator()() { return ++count_ % 13 == 0 ? 9.0 * normal_() : 1.7 * normal_(); }

 private:
  Normal normal_{21};
  int count_ = 0;
};

/// Gradients of rows `pre` given those of what comes out, and what comes out where asked for.
template <class T>
ActivationBackward<T> backward_of(Activation activation, const Rows<float>& dout, const T* pre, std::int64_t pre_stride,
                                  Rows<T>& dpre, T* act, std::int64_t act_stride) {
  ActivationBackward<T> b{.activation = activation, .dout = dout.data(), .dout_stride = dout.stride()};
  b.pre = pre;
  b.pre_stride = pre_stride;
  b.dpre = dpre.data();
  b.dpre_stride = dpre.stride();
  b.act = act;
  b.act_stride = act_stride;
  b.rows = dout.rows();
  b.cols = dout.cols();
  return b;
}

/// `backward` again with the forward result asked for, elsewhere and in place of its input: the same gradients, and as
/// results those of the forward pass.
template <class T>
void check_recomputed(void (*backward)(const ActivationBackward<T>&), Activation activation, const Rows<float>& dout,
                      const Rows<T>& pre, const Rows<T>& dpre, const Rows<T>& forward) {
  Rows<T> act(forward.rows(), forward.cols(), 4, 1), again = dpre, in_place = pre;
  backward(backward_of(activation, dout, pre.data(), pre.stride(), again, act.data(), act.stride()));
  for (std::int64_t r = 0; r < forward.rows(); ++r) {
    EXPECT_TRUE(again.same_bits(r, dpre, r));
    EXPECT_TRUE(act.same_bits(r, forward, r));
  }
  EXPECT_TRUE(act.gaps_untouched());
  backward(backward_of(activation, dout, static_cast<const T*>(in_place.data()), in_place.stride(), again, in_place.data(),
                       in_place.stride()));
  for (std::int64_t r = 0; r < forward.rows(); ++r) {
    EXPECT_TRUE(again.same_bits(r, dpre, r));
    for (std::int64_t c = 0; c < forward.cols(); ++c) ASSERT_EQ(in_place.value(r, c), forward.value(r, c));
  }
}

template <class T>
void check_activation(const ElementwiseKernels& table, Activation activation, std::int64_t cols) {
  Inputs next;
  const Rows<T> x = Rows<T>(2, cols).fill(next);
  const Rows<float> dy = Rows<float>(2, cols, 2, 3).fill(Normal(22));
  Rows<T> y(2, cols, 5, 0), dx(2, cols, 1, 2);
  const auto& kernels = kernels_for<T>(table);
  kernels.activation_forward(activation, x.data(), x.stride(), y.data(), y.stride(), 2, cols);
  kernels.activation_backward(backward_of<T>(activation, dy, x.data(), x.stride(), dx, nullptr, 0));
  check_recomputed<T>(kernels.activation_backward, activation, dy, x, dx, y);
  for (std::int64_t r = 0; r < 2; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      const double at = x.value(r, c), d = dy.value(r, c);
      const double f = value(activation, at), df = d * slope(activation, at);
      ASSERT_NEAR(y.value(r, c), f, arithmetic<T>(activation, at) + kStorageError<T> * std::abs(f)) << "x " << at;
      ASSERT_NEAR(dx.value(r, c), df, std::abs(d) * arithmetic<T>(activation, at) + kStorageError<T> * std::abs(df))
          << "x " << at;
    }
    // The same element at another place in the vector: the same bits.
    Rows<T> shifted(1, cols + 1, 0, 0), shifted_y(1, cols + 1, 0, 1);
    for (std::int64_t c = 0; c < cols; ++c) shifted.at(0, c + 1) = x.at(r, c);
    kernels.activation_forward(activation, shifted.data(), shifted.stride(), shifted_y.data(), shifted_y.stride(), 1,
                               cols + 1);
    EXPECT_EQ(0, std::memcmp(&shifted_y.at(0, 1), &y.at(r, 0), static_cast<std::size_t>(cols) * sizeof(T)));
  }
  EXPECT_TRUE(y.gaps_untouched());
  EXPECT_TRUE(dx.gaps_untouched());
}

/// pre = sum + bias and out = activation(sum + bias).
template <class T>
void check_epilogue(const ElementwiseKernels& table, Activation activation, std::int64_t cols) {
  Inputs next;
  const std::int64_t gap = 3;
  const Rows<float> sum = Rows<float>(3, cols).fill(next), bias = Rows<float>(1, cols).fill(Normal(24));
  alignas(64) std::array<T, 3 * 1024> pre{};
  ASSERT_LE(3 * (cols + gap), std::ssize(pre));
  Rows<T> out(3, cols, 5, 0), without(3, cols, 5, 0);
  ActivationEpilogue<T> e{.activation = activation, .sum = sum.data(), .sum_stride = sum.stride(), .bias = bias.data()};
  e.pre = pre.data();
  e.pre_stride = cols + gap;
  e.out = out.data();
  e.out_stride = out.stride();
  e.rows = 3;
  e.cols = cols;
  kernels_for<T>(table).activation_epilogue(e);
  const std::array<T, 3 * 1024> cached = pre;  // written past the caches where lines are whole: the same
  e.stream_pre = true;
  kernels_for<T>(table).activation_epilogue(e);
  EXPECT_EQ(0, std::memcmp(pre.data(), cached.data(), sizeof(pre)));
  e.pre = nullptr;
  e.out = without.data();
  kernels_for<T>(table).activation_epilogue(e);
  for (std::int64_t r = 0; r < 3; ++r) {
    EXPECT_TRUE(out.same_bits(r, without, r));
    for (std::int64_t c = 0; c < cols; ++c) {
      const double at = static_cast<double>(sum.at(r, c) + bias.at(0, c)), f = value(activation, at);
      ASSERT_NEAR(value_of(pre[static_cast<std::size_t>(r * (cols + gap) + c)]), at, kStorageError<T> * std::abs(at));
      ASSERT_NEAR(out.value(r, c), f, arithmetic<T>(activation, at) + kStorageError<T> * std::abs(f)) << "x " << at;
    }
    for (std::int64_t c = cols; c < cols + gap; ++c) {
      ASSERT_EQ(value_of(pre[static_cast<std::size_t>(r * (cols + gap) + c)]), 0.0) << "the gap is not the kernel's";
    }
  }
  EXPECT_TRUE(out.gaps_untouched());
}

TEST(Activations, EpilogueAddsTheBiasAndKeepsTheSum) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const Activation activation : kActivations) {
      for (const std::int64_t cols : {1, 15, 32, 33, 127}) {
        check_epilogue<float>(*table, activation, cols);
        check_epilogue<bf16>(*table, activation, cols);
      }
    }
  }
}

template <class T>
void check_gated(const ElementwiseKernels& table, Activation activation, std::int64_t width) {
  Inputs next;
  const Rows<T> gate_up = Rows<T>(2, 2 * width).fill(next);
  const Rows<float> dy = Rows<float>(2, width, 2, 3).fill(Normal(23));
  Rows<T> y(2, width, 5, 0), d_gate_up(2, 2 * width, 1, 2);
  const auto& kernels = kernels_for<T>(table);
  kernels.gated_forward(activation, gate_up.data(), gate_up.stride(), y.data(), y.stride(), 2, width);
  kernels.gated_backward(backward_of<T>(activation, dy, gate_up.data(), gate_up.stride(), d_gate_up, nullptr, 0));
  check_recomputed<T>(kernels.gated_backward, activation, dy, gate_up, d_gate_up, y);
  for (std::int64_t r = 0; r < 2; ++r) {
    for (std::int64_t c = 0; c < width; ++c) {
      const double gate = gate_up.value(r, c), up = gate_up.value(r, width + c), d = dy.value(r, c);
      const double f = value(activation, gate), error = arithmetic<T>(activation, gate);
      const double out = f * up, d_gate = d * up * slope(activation, gate), d_up = d * f;
      ASSERT_NEAR(y.value(r, c), out, std::abs(up) * error + kStorageError<T> * std::abs(out));
      ASSERT_NEAR(d_gate_up.value(r, c), d_gate, std::abs(d * up) * error + kStorageError<T> * std::abs(d_gate));
      ASSERT_NEAR(d_gate_up.value(r, width + c), d_up, std::abs(d) * error + kStorageError<T> * std::abs(d_up));
    }
  }
  EXPECT_TRUE(y.gaps_untouched());
  EXPECT_TRUE(d_gate_up.gaps_untouched());
}

/// GPT-OSS's unit and its derivatives, 0 beyond the clamps.
struct ClampedUnit {
  double y, d_gate, d_up;
};
ClampedUnit clamped_unit(double gate, double up) {
  const double g = std::min(gate, 7.0), u = std::clamp(up, -7.0, 7.0);
  const double s = 1.0 / (1.0 + std::exp(-1.702 * g));
  return {g * s * (u + 1.0), gate > 7.0 ? 0.0 : (u + 1.0) * s * (1.0 + 1.702 * g * (1.0 - s)),
          std::abs(up) > 7.0 ? 0.0 : g * s};
}

template <class T>
void check_clamped_swiglu(const ElementwiseKernels& table, std::int64_t width) {
  Normal next(31, 6.0);
  Rows<T> gate_up = Rows<T>(3, 2 * width).fill(next);
  if (width > 2) {  // on the clamps and just beyond
    gate_up.at(0, 0) = gate_up.at(0, width + 1) = from_double<T>(7.0);
    gate_up.at(0, 2) = from_double<T>(7.03125);
    gate_up.at(0, width + 2) = from_double<T>(-7.0);
    gate_up.at(1, width + 2) = from_double<T>(-7.03125);
  }
  const Rows<float> dy = Rows<float>(3, width, 2, 3).fill(Normal(23));
  Rows<T> y(3, width, 5, 0), d_gate_up(3, 2 * width, 1, 2);
  const auto& kernels = kernels_for<T>(table);
  kernels.clamped_swiglu_forward(gate_up.data(), gate_up.stride(), y.data(), y.stride(), 3, width);
  kernels.clamped_swiglu_backward(
      backward_of<T>(Activation::silu, dy, gate_up.data(), gate_up.stride(), d_gate_up, nullptr, 0));
  check_recomputed<T>(kernels.clamped_swiglu_backward, Activation::silu, dy, gate_up, d_gate_up, y);
  for (std::int64_t r = 0; r < 3; ++r) {
    for (std::int64_t c = 0; c < width; ++c) {
      const double gate = gate_up.value(r, c), up = gate_up.value(r, width + c), d = dy.value(r, c);
      const ClampedUnit unit = clamped_unit(gate, up);
      // A few roundings of terms no larger than (|g| + 1) (|u| + 1) with |u| <= 7.
      const double error = (0x1p-20 + 2.0 * kSigmoidError<T>)*8.0 * (1.0 + std::min(std::abs(gate), 7.0));
      ASSERT_NEAR(y.value(r, c), unit.y, error + kStorageError<T> * std::abs(unit.y)) << gate << " " << up;
      ASSERT_NEAR(d_gate_up.value(r, c), d * unit.d_gate, std::abs(d) * (error + kStorageError<T> * std::abs(unit.d_gate)))
          << gate << " " << up;
      ASSERT_NEAR(d_gate_up.value(r, width + c), d * unit.d_up,
                  std::abs(d) * (error + kStorageError<T> * std::abs(unit.d_up)))
          << gate << " " << up;
      if (gate > 7.0) {
        ASSERT_EQ(d_gate_up.value(r, c), 0.0);
      }
    }
  }
  EXPECT_TRUE(y.gaps_untouched());
  EXPECT_TRUE(d_gate_up.gaps_untouched());
}

TEST(ActivationReference, ClampedUnitAgreesWithCentralDifferences) {
  for (double gate = -9.0; gate < 9.0; gate += 1.13) {
    for (double up = -9.0; up < 9.0; up += 1.13) {
      std::vector<double> point = {gate, up};
      const auto f = [&] { return clamped_unit(point[0], point[1]).y; };
      EXPECT_NEAR(clamped_unit(gate, up).d_gate, central_difference(point, 0, f), 1e-7);
      EXPECT_NEAR(clamped_unit(gate, up).d_up, central_difference(point, 1, f), 1e-7);
    }
  }
}

TEST(Activations, ClampedSwiglu) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t width : kSizes) {
      check_clamped_swiglu<float>(*table, width);
      check_clamped_swiglu<bf16>(*table, width);
    }
  }
}

TEST(Activations, ForwardAndBackward) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (const Activation activation : kActivations) {
      SCOPED_TRACE(std::string(table->name) + " activation " + std::to_string(static_cast<int>(activation)));
      for (const std::int64_t cols : kSizes) {
        check_activation<float>(*table, activation, cols);
        check_activation<bf16>(*table, activation, cols);
      }
    }
  }
}

TEST(Activations, Gated) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (const Activation activation : kActivations) {
      SCOPED_TRACE(std::string(table->name) + " activation " + std::to_string(static_cast<int>(activation)));
      for (const std::int64_t width : kSizes) {
        check_gated<float>(*table, activation, width);
        check_gated<bf16>(*table, activation, width);
      }
    }
  }
}

// Far out, where exp would overflow or vanish: the limits, never NaN. The sigmoid stops at 1.6e-38, which the cubic's slope
// raises to no more than 1e-26 at 1e4.
TEST(Activations, FarFromZero) {
  const std::vector<float> x = {-1e4F, -300.0F, -89.0F, -88.5F, 88.5F, 89.0F, 300.0F, 1e4F};
  const std::vector<float> ones(x.size(), 1.0F);
  const auto n = static_cast<std::int64_t>(x.size());
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (const Activation activation : {Activation::gelu_tanh, Activation::gelu_erf, Activation::silu}) {
      SCOPED_TRACE(std::string(table->name) + " activation " + std::to_string(static_cast<int>(activation)));
      std::vector<float> y(x.size()), dx(x.size());
      table->f32.activation_forward(activation, x.data(), n, y.data(), n, 1, n);
      table->f32.activation_backward({.activation = activation,
                                      .dout = ones.data(),
                                      .dout_stride = n,
                                      .pre = x.data(),
                                      .pre_stride = n,
                                      .dpre = dx.data(),
                                      .dpre_stride = n,
                                      .rows = 1,
                                      .cols = n});
      for (std::size_t i = 0; i < x.size(); ++i) {
        EXPECT_NEAR(y[i], std::max(x[i], 0.0F), 1e-26F) << x[i];
        EXPECT_NEAR(dx[i], x[i] > 0.0F ? 1.0F : 0.0F, 1e-26F) << x[i];
      }
    }
  }
}

// A NaN is a fault upstream and must stay visible in both storage types.
TEST(Activations, KeepNan) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (const Activation activation : kActivations) {
      SCOPED_TRACE(std::string(table->name) + " activation " + std::to_string(static_cast<int>(activation)));
      const std::vector<bf16> x(5, bf16{0x7F81});
      std::vector<bf16> y(5, bf16{0});
      table->b16.activation_forward(activation, x.data(), 5, y.data(), 5, 1, 5);
      for (const bf16 v : y) EXPECT_TRUE(std::isnan(float_from_bf16(v)));
    }
  }
}

}  // namespace
}  // namespace quern::test
