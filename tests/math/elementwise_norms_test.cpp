// RMSNorm and LayerNorm, forward and backward, against double-precision references and central differences.
#include "elementwise_support.hpp"

namespace quern::test {
namespace {

using Vector = std::vector<double>;

struct Statistics {
  double mean;
  double rstd;
};

Statistics statistics(const Vector& x, double eps, bool centered) {
  const double n = static_cast<double>(x.size());
  double mean = 0.0;
  if (centered) {
    for (const double v : x) mean += v / n;
  }
  double variance = 0.0;
  for (const double v : x) variance += (v - mean) * (v - mean) / n;
  return {mean, 1.0 / std::sqrt(variance + eps)};
}

Vector norm_forward(const Vector& x, const Vector& weight, const Vector& bias, double eps, bool centered) {
  const Statistics s = statistics(x, eps, centered);
  Vector y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = (x[i] - s.mean) * s.rstd * weight[i] + bias[i];
  return y;
}

struct Gradients {
  Vector dx, dweight, dbias;
};

Gradients norm_backward(const Vector& dy, const Vector& x, const Vector& weight, const Statistics& s, bool centered) {
  const std::size_t n = x.size();
  Gradients out{Vector(n), Vector(n), dy};
  double mean_g = 0.0;
  double mean_gh = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    const double h = (x[i] - s.mean) * s.rstd;
    mean_g += dy[i] * weight[i] / static_cast<double>(n);
    mean_gh += dy[i] * weight[i] * h / static_cast<double>(n);
    out.dweight[i] = dy[i] * h;
  }
  if (!centered) mean_g = 0.0;
  for (std::size_t i = 0; i < n; ++i) {
    const double h = (x[i] - s.mean) * s.rstd;
    out.dx[i] = s.rstd * (dy[i] * weight[i] - mean_g - h * mean_gh);
  }
  return out;
}

double largest(const Vector& v) {
  double result = 0.0;
  for (const double x : v) result = std::max(result, std::abs(x));
  return result;
}

constexpr float kEps = 1e-5F;
constexpr std::int64_t kRows = 3;
/// Bound on f32 arithmetic: a handful of roundings, and a block sum's, relative to the largest term.
constexpr double kArithmetic = 0x1p-20;

TEST(NormReference, BackwardAgreesWithCentralDifferences) {
  for (const bool centered : {false, true}) {
    for (const std::size_t n : {1U, 2U, 5U, 9U}) {
      Normal next(static_cast<unsigned>(n), 1.0, 0.3);
      Vector x(n), weight(n), bias(n), dy(n);
      for (std::size_t i = 0; i < n; ++i) x[i] = next(), weight[i] = next(), bias[i] = next(), dy[i] = next();
      const auto loss = [&] {
        const Vector y = norm_forward(x, weight, bias, 1e-3, centered);
        double sum = 0.0;
        for (std::size_t i = 0; i < n; ++i) sum += dy[i] * y[i];
        return sum;
      };
      const Gradients g = norm_backward(dy, x, weight, statistics(x, 1e-3, centered), centered);
      for (std::size_t i = 0; i < n; ++i) {
        EXPECT_NEAR(g.dx[i], central_difference(x, i, loss), 1e-6 * (1.0 + largest(g.dx)));
        EXPECT_NEAR(g.dweight[i], central_difference(weight, i, loss), 1e-7);
        EXPECT_NEAR(g.dbias[i], central_difference(bias, i, loss), 1e-7);
      }
    }
  }
}

template <class X, class Y, class Kernel>
void check_rms_forward(const Kernel& kernel, std::int64_t cols) {
  Normal next(11, 2.0, 0.5);
  const Rows<X> x = Rows<X>(kRows, cols).fill(next);
  const Rows<float> weight = Rows<float>(1, cols).fill(next);
  Rows<Y> y(kRows, cols, 5, 2);
  std::vector<float> rstd(kRows);
  kernel(x.data(), x.stride(), weight.data(), kEps, y.data(), y.stride(), rstd.data(), kRows, cols);
  for (std::int64_t r = 0; r < kRows; ++r) {
    const Statistics s = statistics(x.row(r), value_of(kEps), false);
    EXPECT_NEAR(value_of(rstd[static_cast<std::size_t>(r)]), s.rstd, kArithmetic * s.rstd);
    const Vector want = norm_forward(x.row(r), weight.row(0), Vector(static_cast<std::size_t>(cols)), value_of(kEps), false);
    for (std::int64_t c = 0; c < cols; ++c) {
      const double exact = want[static_cast<std::size_t>(c)];
      ASSERT_NEAR(y.value(r, c), exact, (kArithmetic + kStorageError<Y>)*std::abs(exact)) << "cols " << cols << " c " << c;
    }
    // A row alone, elsewhere in memory, without statistics: the same bits.
    Rows<X> one(1, cols, 0, r);
    for (std::int64_t c = 0; c < cols; ++c) one.at(0, c) = x.at(r, c);
    Rows<Y> alone(1, cols, 0, 3 - r);
    kernel(one.data(), one.stride(), weight.data(), kEps, alone.data(), alone.stride(), nullptr, 1, cols);
    EXPECT_TRUE(y.same_bits(r, alone, 0)) << "cols " << cols;
  }
  EXPECT_TRUE(y.gaps_untouched());
}

TEST(RmsNorm, Forward) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t cols : kSizes) {
      check_rms_forward<float, float>(table->f32.rms_norm_forward, cols);
      check_rms_forward<float, bf16>(table->b16.rms_norm_forward, cols);
      check_rms_forward<float, float>(table->f32.head_norm_forward, cols);
      check_rms_forward<bf16, bf16>(table->b16.head_norm_forward, cols);
    }
  }
}

TEST(HeadNorm, ForwardInPlaceGivesTheSameBits) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    Normal next(5);
    Rows<bf16> x = Rows<bf16>(kRows, 65).fill(next);
    const Rows<float> weight = Rows<float>(1, 65).fill(next);
    Rows<bf16> y(kRows, 65);
    table->b16.head_norm_forward(x.data(), x.stride(), weight.data(), kEps, y.data(), y.stride(), nullptr, kRows, 65);
    table->b16.head_norm_forward(x.data(), x.stride(), weight.data(), kEps, x.data(), x.stride(), nullptr, kRows, 65);
    for (std::int64_t r = 0; r < kRows; ++r) EXPECT_TRUE(x.same_bits(r, y, r));
  }
}

template <class T>
void check_layer_forward(const ElementwiseKernels& table, std::int64_t cols, bool with_bias) {
  Normal next(12, 1.5, 4.0);
  const Rows<float> x = Rows<float>(kRows, cols).fill(next);
  const Rows<float> weight = Rows<float>(1, cols).fill(next);
  Rows<float> bias(1, cols);
  bias.fill([&] { return with_bias ? next() : 0.0; });
  Rows<T> y(kRows, cols, 5, 2);
  std::vector<float> mean(kRows), rstd(kRows);
  kernels_for<T>(table).layer_norm_forward(x.data(), x.stride(), weight.data(), with_bias ? bias.data() : nullptr, kEps,
                                           y.data(), y.stride(), mean.data(), rstd.data(), kRows, cols);
  for (std::int64_t r = 0; r < kRows; ++r) {
    const Vector exact_x = x.row(r);
    const Statistics s = statistics(exact_x, value_of(kEps), true);
    const double size = largest(exact_x);
    EXPECT_NEAR(value_of(mean[static_cast<std::size_t>(r)]), s.mean, kArithmetic * size);
    // One column: the variance is exactly 0, and rstd 1/sqrt(eps).
    EXPECT_NEAR(value_of(rstd[static_cast<std::size_t>(r)]), s.rstd, kArithmetic * s.rstd * (1.0 + size * s.rstd));
    const Vector want = norm_forward(exact_x, weight.row(0), bias.row(0), value_of(kEps), true);
    for (std::int64_t c = 0; c < cols; ++c) {
      const double exact = want[static_cast<std::size_t>(c)];
      const double arithmetic = kArithmetic * (size * s.rstd * std::abs(weight.value(0, c)) + std::abs(bias.value(0, c)));
      ASSERT_NEAR(y.value(r, c), exact, arithmetic + kStorageError<T> * std::abs(exact)) << "cols " << cols << " c " << c;
    }
    Rows<T> alone(1, cols, 0, r);
    kernels_for<T>(table).layer_norm_forward(&x.at(r, 0), x.stride(), weight.data(), with_bias ? bias.data() : nullptr, kEps,
                                             alone.data(), alone.stride(), nullptr, nullptr, 1, cols);
    EXPECT_TRUE(y.same_bits(r, alone, 0)) << "cols " << cols;
  }
  EXPECT_TRUE(y.gaps_untouched());
}

TEST(LayerNorm, Forward) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t cols : kSizes) {
      for (const bool with_bias : {false, true}) {
        check_layer_forward<float>(*table, cols, with_bias);
        check_layer_forward<bf16>(*table, cols, with_bias);
      }
    }
  }
}

// The mean square of a long row of equal numbers: plain f32 sums in one accumulator would be off by far more.
TEST(Norms, LongRowsKeepTheirStatistics) {
  constexpr std::int64_t kCols = 200000;
  const std::vector<float> x(kCols, 3.1F), weight(kCols, 1.0F);
  std::vector<float> y(kCols);
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    float rstd = 0.0F;
    table->f32.rms_norm_forward(x.data(), kCols, weight.data(), 0.0F, y.data(), kCols, &rstd, 1, kCols);
    EXPECT_NEAR(value_of(rstd), 1.0 / value_of(3.1F), 2e-6);
    float mean = 0.0F;
    table->f32.layer_norm_forward(x.data(), kCols, weight.data(), nullptr, kEps, y.data(), kCols, &mean, &rstd, 1, kCols);
    EXPECT_NEAR(value_of(mean), value_of(3.1F), 2e-5);
  }
}

/// Runs a backward kernel over all rows and compares dx and the accumulated parameter gradients. `start` is what dx held.
template <class T, class Kernel>
void check_backward(const Kernel& kernel, std::int64_t cols, bool centered, bool accumulate) {
  Normal next(13, 1.0, 0.4);
  const Rows<T> dy = Rows<T>(kRows, cols, 4, 2).fill(next);
  const Rows<T> x = Rows<T>(kRows, cols).fill(next);
  const Rows<float> weight = Rows<float>(1, cols).fill(next);
  Rows<T> dx = Rows<T>(kRows, cols, 2, 0).fill(next);
  Rows<float> dweight = Rows<float>(1, cols).fill(next);
  Rows<float> dbias = Rows<float>(1, cols).fill(next);
  const Rows<T> dx_before = dx;
  const Rows<float> dweight_before = dweight, dbias_before = dbias;
  // eps 0.1 keeps rstd, and with it the conditioning of the one-column row, moderate.
  std::vector<float> mean, rstd;
  std::vector<Statistics> exact;
  for (std::int64_t r = 0; r < kRows; ++r) {
    const Statistics s = statistics(x.row(r), 0.1, centered);
    mean.push_back(static_cast<float>(s.mean));
    rstd.push_back(static_cast<float>(s.rstd));
    exact.push_back({value_of(mean.back()), value_of(rstd.back())});
  }
  kernel(dy, x, weight.data(), mean.data(), rstd.data(), dx, dweight.data(), dbias.data());

  Vector dweight_want = dweight_before.row(0), dbias_want = dbias_before.row(0);
  Vector dweight_size = dweight_want, dbias_size = dbias_want;
  for (double& v : dweight_size) v = std::abs(v);
  for (double& v : dbias_size) v = std::abs(v);
  for (std::int64_t r = 0; r < kRows; ++r) {
    const Statistics& s = exact[static_cast<std::size_t>(r)];
    const Gradients g = norm_backward(dy.row(r), x.row(r), weight.row(0), s, centered);
    const Vector row = x.row(r);
    double h_max = 0.0;
    for (const double v : row) h_max = std::max(h_max, std::abs(v - s.mean) * s.rstd);
    const double g_max = largest(dy.row(r)) * largest(weight.row(0));
    const double size = s.rstd * g_max * (2.0 + h_max * h_max) + s.rstd * s.rstd * std::abs(s.mean) * g_max;
    for (std::int64_t c = 0; c < cols; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double want = g.dx[i] + (accumulate ? dx_before.value(r, c) : 0.0);
      ASSERT_NEAR(dx.value(r, c), want, kArithmetic * (size + std::abs(want)) + kStorageError<T> * std::abs(want))
          << "cols " << cols << " row " << r << " c " << c;
      dweight_want[i] += g.dweight[i];
      dweight_size[i] += std::abs(g.dweight[i]) + std::abs(dy.value(r, c) * s.mean * s.rstd);
      dbias_want[i] += g.dbias[i];
      dbias_size[i] += std::abs(g.dbias[i]);
    }
  }
  for (std::int64_t c = 0; c < cols; ++c) {
    const auto i = static_cast<std::size_t>(c);
    ASSERT_NEAR(dweight.value(0, c), dweight_want[i], kArithmetic * dweight_size[i]) << "cols " << cols;
    if (!centered) continue;
    ASSERT_NEAR(dbias.value(0, c), dbias_want[i], kArithmetic * dbias_size[i]) << "cols " << cols;
  }
  EXPECT_TRUE(dx.gaps_untouched());
  EXPECT_TRUE(dweight.gaps_untouched());
}

TEST(RmsNorm, Backward) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    const auto kernel = [&](const Rows<float>& dy, const Rows<float>& x, const float* weight, const float*,
                            const float* rstd, Rows<float>& dx, float* dweight, float*) {
      table->rms_norm_backward(dy.data(), dy.stride(), x.data(), x.stride(), weight, rstd, dx.data(), dx.stride(), dweight,
                               dy.rows(), dy.cols());
    };
    for (const std::int64_t cols : kSizes) check_backward<float>(kernel, cols, false, true);
  }
}

template <class T>
void check_head_backward(const ElementwiseKernels& table, std::int64_t cols) {
  check_backward<T>(
      [&](const Rows<T>& dy, const Rows<T>& x, const float* weight, const float*, const float* rstd, Rows<T>& dx,
          float* dweight, float*) {
        kernels_for<T>(table).head_norm_backward(dy.data(), dy.stride(), x.data(), x.stride(), weight, rstd, dx.data(),
                                                 dx.stride(), dweight, dy.rows(), dy.cols());
        // In place over dy: the same bits.
        Rows<T> in_place = dy;
        std::vector<float> unused(static_cast<std::size_t>(dy.cols()));
        kernels_for<T>(table).head_norm_backward(in_place.data(), in_place.stride(), x.data(), x.stride(), weight, rstd,
                                                 in_place.data(), in_place.stride(), unused.data(), dy.rows(), dy.cols());
        for (std::int64_t r = 0; r < dy.rows(); ++r) EXPECT_TRUE(in_place.same_bits(r, dx, r));
      },
      cols, false, false);
}

TEST(HeadNorm, Backward) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t cols : kSizes) {
      check_head_backward<float>(*table, cols);
      check_head_backward<bf16>(*table, cols);
    }
  }
}

TEST(LayerNorm, Backward) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    const auto kernel = [&](const Rows<float>& dy, const Rows<float>& x, const float* weight, const float* mean,
                            const float* rstd, Rows<float>& dx, float* dweight, float* dbias) {
      // Without dbias first: the other results must not depend on it.
      Rows<float> dx_only = dx;
      std::vector<float> dweight_only(dweight, dweight + dy.cols());
      table->layer_norm_backward(dy.data(), dy.stride(), x.data(), x.stride(), weight, mean, rstd, dx_only.data(),
                                 dx_only.stride(), dweight_only.data(), nullptr, dy.rows(), dy.cols());
      table->layer_norm_backward(dy.data(), dy.stride(), x.data(), x.stride(), weight, mean, rstd, dx.data(), dx.stride(),
                                 dweight, dbias, dy.rows(), dy.cols());
      for (std::int64_t r = 0; r < dy.rows(); ++r) EXPECT_TRUE(dx.same_bits(r, dx_only, r));
      EXPECT_EQ(dweight_only, std::vector<float>(dweight, dweight + dy.cols()));
    };
    for (const std::int64_t cols : kSizes) check_backward<float>(kernel, cols, true, true);
  }
}

TEST(Norms, NothingToDo) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    table->f32.rms_norm_forward(nullptr, 0, nullptr, kEps, nullptr, 0, nullptr, 0, 8);
    table->f32.rms_norm_forward(nullptr, 0, nullptr, kEps, nullptr, 0, nullptr, 2, 0);
    table->b16.layer_norm_forward(nullptr, 0, nullptr, nullptr, kEps, nullptr, 0, nullptr, nullptr, 2, 0);
    table->layer_norm_backward(nullptr, 0, nullptr, 0, nullptr, nullptr, nullptr, nullptr, 0, nullptr, nullptr, 0, 8);
  }
}

}  // namespace
}  // namespace quern::test
