// Softmax and cross-entropy against double-precision references; gradients against central differences.
#include <algorithm>
#include <limits>

#include "elementwise_support.hpp"

namespace quern::test {
namespace {

using Vector = std::vector<double>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

double capped(double l, double cap) { return cap > 0.0 ? cap * std::tanh(l / cap) : l; }

double log_sum_exp(const Vector& logits, double cap) {
  double max = -std::numeric_limits<double>::infinity();
  for (const double l : logits) max = std::max(max, capped(l, cap));
  double sum = 0.0;
  for (const double l : logits) sum += std::exp(capped(l, cap) - max);
  return max + std::log(sum);
}

double loss_of(const Vector& logits, std::size_t target, double cap) {
  return log_sum_exp(logits, cap) - capped(logits[target], cap);
}

Vector gradient_of(const Vector& logits, std::size_t target, double cap, double scale) {
  const double total = log_sum_exp(logits, cap);
  Vector gradient(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double l = capped(logits[i], cap);
    const double slope = cap > 0.0 ? 1.0 - (l / cap) * (l / cap) : 1.0;
    gradient[i] = (std::exp(l - total) - (i == target ? 1.0 : 0.0)) * scale * slope;
  }
  return gradient;
}

TEST(CrossEntropyReference, GradientAgreesWithCentralDifferences) {
  for (const double cap : {0.0, 3.0}) {
    Normal next(41, 2.0);
    Vector logits(7);
    for (double& l : logits) l = next();
    const Vector gradient = gradient_of(logits, 2, cap, 0.7);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      EXPECT_NEAR(gradient[i], 0.7 * central_difference(logits, i, [&] { return loss_of(logits, 2, cap); }), 1e-9);
    }
  }
}

template <class T>
void check_cross_entropy(const ElementwiseKernels& table, std::int64_t vocab, float cap, double spread) {
  constexpr std::int64_t kRows = 4;
  const Rows<float> logits = Rows<float>(kRows, vocab).fill(Normal(static_cast<unsigned>(42 + vocab), spread, -3.0));
  // Row 2 is masked; its target must not be read as an index.
  const std::int32_t target[kRows] = {static_cast<std::int32_t>(vocab - 1), 0, -1000000,
                                      static_cast<std::int32_t>(vocab / 2)};
  const float scale[kRows] = {0.25F, 1.0F, 0.0F, -2.0F};
  Rows<T> gradient(kRows, vocab, 5, 2);
  std::vector<float> loss(kRows, -1.0F), loss_only(kRows, -1.0F);
  const auto& kernel = kernels_for<T>(table).cross_entropy;
  kernel(logits.data(), logits.stride(), target, scale, cap, loss.data(), gradient.data(), gradient.stride(), kRows, vocab);
  kernel(logits.data(), logits.stride(), target, scale, cap, loss_only.data(), nullptr, 0, kRows, vocab);
  EXPECT_EQ(loss, loss_only);
  for (std::int64_t r = 0; r < kRows; ++r) {
    const auto row = static_cast<std::size_t>(r);
    if (scale[r] == 0.0F) {
      EXPECT_EQ(loss[row], 0.0F);
      for (std::int64_t c = 0; c < vocab; ++c) ASSERT_EQ(gradient.value(r, c), 0.0);
      continue;
    }
    const Vector l = logits.row(r);
    const auto at = static_cast<std::size_t>(target[r]);
    double size = 0.0;  // largest logit that enters: a difference of such numbers is rounded before exp
    for (const double v : l) size = std::max(size, std::abs(capped(v, value_of(cap))));
    const double error = 0x1p-21 * (1.0 + size);
    EXPECT_NEAR(value_of(loss[row]), loss_of(l, at, value_of(cap)), error) << "vocab " << vocab;
    const Vector want = gradient_of(l, at, value_of(cap), value_of(scale[r]));
    const double total = log_sum_exp(l, value_of(cap));
    for (std::int64_t c = 0; c < vocab; ++c) {
      const double exact = want[static_cast<std::size_t>(c)];
      // Softmax is relative to its own size, the target's p - 1 to 1, and where a cap binds its slope 1 - t^2 cancels. An
      // exponential below the smallest normal number (1.2e-38) is 0.
      const double factor = std::abs(value_of(scale[r]));
      double bound = (error + kStorageError<T>)*std::abs(exact) + 2e-38 * (1.0 + factor);
      if (static_cast<std::size_t>(c) == at) bound += error * factor;
      if (cap > 0.0F) bound += error * factor * std::exp(capped(l[static_cast<std::size_t>(c)], value_of(cap)) - total);
      ASSERT_NEAR(gradient.value(r, c), exact, bound) << "vocab " << vocab << " row " << r << " c " << c;
    }
    // The row alone and elsewhere: the same bits.
    Rows<float> one(1, vocab, 0, r);
    for (std::int64_t c = 0; c < vocab; ++c) one.at(0, c) = logits.at(r, c);
    Rows<T> alone(1, vocab, 0, 3 - r);
    float alone_loss = 0.0F;
    kernel(one.data(), one.stride(), target + r, scale + r, cap, &alone_loss, alone.data(), alone.stride(), 1, vocab);
    EXPECT_EQ(alone_loss, loss[row]);
    EXPECT_TRUE(alone.same_bits(0, gradient, r));
  }
  EXPECT_TRUE(gradient.gaps_untouched());
}

TEST(CrossEntropy, LossAndGradient) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t vocab : kSizes) {
      for (const float cap : {0.0F, 4.0F, 30.0F}) {
        check_cross_entropy<float>(*table, vocab, cap, 3.0);
        check_cross_entropy<bf16>(*table, vocab, cap, 3.0);
      }
      check_cross_entropy<float>(*table, vocab, 0.0F, 40.0);  // most terms vanish beside the largest
    }
  }
}

TEST(CrossEntropy, LargeVocabulary) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t vocab : {2048, 2049, 4097, 200000}) check_cross_entropy<bf16>(*table, vocab, 0.0F, 2.0);
  }
}

// The running maximum rises in every block, falls, or is not there at first (-inf): the sum must be rescaled alike.
TEST(CrossEntropy, MaximumMovesBetweenBlocks) {
  constexpr std::int64_t kVocab = 3 * 2048 + 5;
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (int kind = 0; kind < 3; ++kind) {
      std::vector<float> logits(kVocab);
      for (std::int64_t i = 0; i < kVocab; ++i) {
        const float rising = static_cast<float>(i) / 100.0F;
        logits[static_cast<std::size_t>(i)] = kind == 0 ? rising : kind == 1 ? -rising : i < 2100 ? -kInfinity : rising;
      }
      const Vector exact(logits.begin(), logits.end());
      const std::int32_t target = 3000;
      const float scale = 1.0F;
      float loss = 0.0F;
      std::vector<float> gradient(kVocab);
      table->f32.cross_entropy(logits.data(), kVocab, &target, &scale, 0.0F, &loss, gradient.data(), kVocab, 1, kVocab);
      EXPECT_NEAR(value_of(loss), loss_of(exact, 3000, 0.0), 1e-4) << table->name << " kind " << kind;
      const Vector want = gradient_of(exact, 3000, 0.0, 1.0);
      for (std::size_t i = 0; i < want.size(); ++i)
        ASSERT_NEAR(value_of(gradient[i]), want[i], 1e-6 + 1e-5 * std::abs(want[i]));
    }
  }
}

// A NaN or +inf among the logits is a fault upstream: the loss must say so.
TEST(CrossEntropy, NanReachesTheLoss) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
      for (const std::int64_t vocab : {3, 40, 5000}) {
        for (const std::int64_t at : {std::int64_t{0}, vocab / 2, vocab - 1}) {
          std::vector<float> logits(static_cast<std::size_t>(vocab), 0.5F);
          logits[static_cast<std::size_t>(at)] = bad;
          const std::int32_t target = 1;
          const float scale = 1.0F;
          float loss = 0.0F;
          table->f32.cross_entropy(logits.data(), vocab, &target, &scale, 0.0F, &loss, nullptr, 0, 1, vocab);
          EXPECT_FALSE(std::isfinite(loss)) << table->name << " vocab " << vocab << " at " << at;
        }
      }
    }
  }
}

// Near certainty: the target's gradient p - 1 is tiny, and must not be a rounded p minus 1.
TEST(CrossEntropy, ConfidentTargetKeepsItsGradient) {
  const std::vector<float> logits = {8.0F, 0.0F, 0.0F, 0.0F};
  const Vector exact(logits.begin(), logits.end());
  const std::int32_t target = 0;
  const float scale = 1.0F;
  for (const ElementwiseKernels* table : elementwise_tables()) {
    float loss = 0.0F;
    std::vector<bf16> gradient(4);
    table->b16.cross_entropy(logits.data(), 4, &target, &scale, 0.0F, &loss, gradient.data(), 4, 1, 4);
    const double want = gradient_of(exact, 0, 0.0, 1.0)[0];
    EXPECT_NEAR(value_of(gradient[0]), want, 0.01 * std::abs(want));
  }
}

TEST(Softmax, MatchesTheReference) {
  for (const ElementwiseKernels* table : elementwise_tables()) {
    SCOPED_TRACE(table->name);
    for (const std::int64_t cols : kSizes) {
      for (const float temperature : {1.0F, 0.5F, 3.0F}) {
        const Rows<float> logits = Rows<float>(3, cols).fill(Normal(43, 4.0));
        Rows<float> x = logits;
        if (cols > 2) x.at(1, cols - 1) = x.at(1, 0) = -kInfinity;
        const Rows<float> before = x;
        table->softmax(x.data(), x.stride(), temperature, 3, cols);
        for (std::int64_t r = 0; r < 3; ++r) {
          Vector scaled = before.row(r);
          for (double& v : scaled) v /= value_of(temperature);
          const double total = log_sum_exp(scaled, 0.0);
          double sum = 0.0;
          for (std::int64_t c = 0; c < cols; ++c) {
            const double want = std::exp(scaled[static_cast<std::size_t>(c)] - total);
            ASSERT_NEAR(x.value(r, c), want, 1e-5 * want) << "cols " << cols;
            sum += x.value(r, c);
          }
          EXPECT_NEAR(sum, 1.0, 1e-6);
          Rows<float> alone(1, cols, 0, r);
          for (std::int64_t c = 0; c < cols; ++c) alone.at(0, c) = before.at(r, c);
          table->softmax(alone.data(), alone.stride(), temperature, 1, cols);
          EXPECT_TRUE(alone.same_bits(0, x, r));
        }
        EXPECT_TRUE(x.gaps_untouched());
      }
    }
    std::vector<float> nothing(20, -kInfinity);
    table->softmax(nothing.data(), 20, 1.0F, 1, 20);
    EXPECT_EQ(nothing, std::vector<float>(20, 0.0F));
    table->softmax(nullptr, 0, 1.0F, 0, 20);
    table->softmax(nothing.data(), 0, 1.0F, 3, 0);
  }
}

}  // namespace
}  // namespace quern::test
