// Operations on whole arrays: add, sum_of_squares, AdamW, momentum, axpby.
#include <algorithm>
#include <limits>

#include "elementwise_support.hpp"

namespace quern::test {
namespace {

TEST(Add, EveryElementOnce) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    table->add(nullptr, nullptr, 0);
    for (const std::int64_t count : kSizes) {
      const Rows<float> x = Rows<float>(1, count, 0, 1).fill(Normal(61));
      const Rows<float> before = Rows<float>(1, count, 0, 2).fill(Normal(62));
      Rows<float> y = before;
      table->add(x.data(), y.data(), count);
      for (std::int64_t i = 0; i < count; ++i) ASSERT_EQ(y.at(0, i), before.at(0, i) + x.at(0, i)) << table->name;
      EXPECT_TRUE(y.gaps_untouched());
    }
  }
}

TEST(SumOfSquares, IsADoubleSum) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    EXPECT_EQ(table->sum_of_squares(nullptr, 0), 0.0);
    for (const std::int64_t count : kSizes) {
      const Rows<float> x = Rows<float>(1, count, 0, 1).fill(Normal(63));
      double want = 0.0;
      for (const double v : x.row(0)) want += v * v;
      EXPECT_NEAR(table->sum_of_squares(x.data(), count), want, 1e-13 * want) << table->name << " " << count;
      Rows<float> elsewhere(1, count, 0, 0);
      for (std::int64_t i = 0; i < count; ++i) elsewhere.at(0, i) = x.at(0, i);
      EXPECT_EQ(table->sum_of_squares(elsewhere.data(), count), table->sum_of_squares(x.data(), count)) << table->name;
    }
    // One large number beside a million small ones, which an f32 sum would lose (all of their 1); and squares beyond f32's
    // range.
    std::vector<float> mixed(1000001, 1e-3F);
    mixed[0] = 1e4F;
    const double small = value_of(1e-3F);
    EXPECT_NEAR(table->sum_of_squares(mixed.data(), 1000001), 1e8 + 1e6 * small * small, 1e-2);
    const std::vector<float> huge(3, 1e30F);
    EXPECT_NEAR(table->sum_of_squares(huge.data(), 3) / 3e60, 1.0, 1e-6);
  }
}

struct Parameter {
  double w, m, v;
};

Parameter adamw(Parameter p, double gradient, const AdamWStep& step) {
  const double g = gradient * value_of(step.gradient_scale);
  p.m = value_of(step.beta1) * p.m + (1.0 - value_of(step.beta1)) * g;
  p.v = value_of(step.beta2) * p.v + (1.0 - value_of(step.beta2)) * g * g;
  p.w -= value_of(step.learning_rate) * value_of(step.weight_decay) * p.w;
  const double m_hat = p.m / value_of(step.bias_correction1), v_hat = p.v / value_of(step.bias_correction2);
  p.w -= value_of(step.learning_rate) * m_hat / (std::sqrt(v_hat) + value_of(step.eps));
  return p;
}

TEST(AdamW, TenStepsFollowTheFormula) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t count : kSizes) {
      Rows<float> w = Rows<float>(1, count, 0, 1).fill(Normal(64)), m(1, count, 0, 2), v(1, count, 0, 3);
      m.fill([] { return 0.0; });
      v.fill([] { return 0.0; });
      std::vector<Parameter> want;
      for (const double x : w.row(0)) want.push_back({x, 0.0, 0.0});
      double power1 = 1.0, power2 = 1.0;
      for (unsigned t = 1; t <= 10; ++t) {
        AdamWStep step;
        step.learning_rate = 0.01F;
        step.weight_decay = 0.1F;
        step.gradient_scale = t % 2 == 0 ? 0.3F : 1.0F;
        power1 *= value_of(step.beta1);
        power2 *= value_of(step.beta2);
        step.bias_correction1 = static_cast<float>(1.0 - power1);
        step.bias_correction2 = static_cast<float>(1.0 - power2);
        const Rows<float> gradient = Rows<float>(1, count, 0, 0).fill(Normal(65 + t));
        table->adamw(w.data(), gradient.data(), m.data(), v.data(), count, step);
        for (std::int64_t i = 0; i < count; ++i) {
          Parameter& p = want[static_cast<std::size_t>(i)];
          p = adamw(p, gradient.value(0, i), step);
        }
      }
      for (std::int64_t i = 0; i < count; ++i) {
        const Parameter& p = want[static_cast<std::size_t>(i)];
        // Ten roundings of w; each step's update is at most about lr * a few units.
        ASSERT_NEAR(w.value(0, i), p.w, 0x1p-20 * (std::abs(p.w) + 0.1)) << "count " << count;
        ASSERT_NEAR(m.value(0, i), p.m, 0x1p-20);
        ASSERT_NEAR(v.value(0, i), p.v, 0x1p-20 * (1.0 + p.v));
      }
      EXPECT_TRUE(w.gaps_untouched() && m.gaps_untouched() && v.gaps_untouched());
    }
  }
}

TEST(AdamW, NoGradientMeansOnlyDecay) {
  AdamWStep step;
  step.learning_rate = 0.5F;
  step.weight_decay = 0.5F;
  for (const ElementwiseKernels* table : elementwise_tables()) {
    std::vector<float> w(20, 8.0F), zero(20, 0.0F), m = zero, v = zero;
    table->adamw(w.data(), zero.data(), m.data(), v.data(), 20, step);
    EXPECT_EQ(w, std::vector<float>(20, 6.0F)) << table->name;
    EXPECT_EQ(m, zero);
    EXPECT_EQ(v, zero);
  }
}

TEST(Nesterov, ThreeStepsFollowTheFormula) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t count : kSizes) {
      Rows<float> m(1, count, 0, 1), direction(1, count, 0, 2);
      m.fill([] { return 0.0; });
      std::vector<double> want(static_cast<std::size_t>(count), 0.0);
      for (unsigned t = 1; t <= 3; ++t) {
        const Rows<float> gradient = Rows<float>(1, count, 0, 0).fill(Normal(80 + t));
        const float scale = t == 2 ? 0.25F : 1.0F;
        table->nesterov(gradient.data(), scale, 0.9F, m.data(), direction.data(), count);
        for (std::int64_t i = 0; i < count; ++i) {
          double& sum = want[static_cast<std::size_t>(i)];
          const double g = value_of(scale) * gradient.value(0, i);
          sum = value_of(0.9F) * sum + g;
          ASSERT_NEAR(m.value(0, i), sum, 0x1p-21 * (std::abs(sum) + 4.0)) << count;
          ASSERT_NEAR(direction.value(0, i), value_of(0.9F) * sum + g, 0x1p-21 * (std::abs(sum) + 4.0)) << count;
        }
      }
      EXPECT_TRUE(m.gaps_untouched() && direction.gaps_untouched());
    }
  }
}

TEST(Axpby, AddsMultiplesAndDoesNotReadWhatItOverwrites) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (const std::int64_t count : kSizes) {
      const Rows<float> x = Rows<float>(1, count, 0, 1).fill(Normal(91));
      const Rows<float> before = Rows<float>(1, count, 0, 2).fill(Normal(92));
      Rows<float> y = before;
      table->axpby(0.5F, x.data(), -2.0F, y.data(), count);
      for (std::int64_t i = 0; i < count; ++i) {
        ASSERT_NEAR(y.value(0, i), 0.5 * x.value(0, i) - 2.0 * before.value(0, i), 0x1p-20) << table->name << " " << count;
      }
      y.fill([] { return std::numeric_limits<double>::quiet_NaN(); });
      table->axpby(0.5F, x.data(), 0.0F, y.data(), count);
      for (std::int64_t i = 0; i < count; ++i) ASSERT_EQ(y.at(0, i), 0.5F * x.at(0, i)) << table->name;
      table->axpby(4.0F, y.data(), 0.0F, y.data(), count);
      for (std::int64_t i = 0; i < count; ++i) ASSERT_EQ(y.at(0, i), 2.0F * x.at(0, i)) << "in place";
      EXPECT_TRUE(y.gaps_untouched());
    }
  }
}

}  // namespace
}  // namespace quern::test
