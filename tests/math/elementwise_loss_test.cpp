// Softmax and cross-entropy against double-precision references; gradients against central differences.
#include <algorithm>
#include <limits>

#include "elementwise_support.hpp"
#include "math/cross_entropy.hpp"

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

/// Losses of complete rows of logits, given `strip` columns at a time; and gradients, apart from each row's factor.
template <class T>
struct Losses {
  Losses(const ElementwiseKernels& table, const Rows<float>& logits, const std::int32_t* target, const float* scale,
         float cap, std::int64_t strip, bool wants_gradient)
      : gradient(logits.rows(), logits.cols(), 5, 2) {
    const auto& kernels = kernels_for<T>(table);
    const auto count = static_cast<std::size_t>(logits.rows());
    std::vector<CrossEntropyRow> rows(count);
    for (std::int64_t first = 0; first < logits.cols(); first += strip) {
      kernels.cross_entropy_columns({.logits = logits.data() + first,
                                     .logits_stride = logits.stride(),
                                     .rows = logits.rows(),
                                     .first_col = first,
                                     .cols = std::min(strip, logits.cols() - first),
                                     .target = target,
                                     .row_scale = scale,
                                     .soft_cap = cap,
                                     .row = rows.data(),
                                     .exponentials = wants_gradient ? gradient.data() + first : nullptr,
                                     .exponentials_stride = gradient.stride()});
    }
    for (std::size_t r = 0; r < count; ++r) loss.push_back(cross_entropy_loss(rows[r], scale[r]));
    factor.resize(count);
    if (!wants_gradient) return;
    kernels.cross_entropy_targets(rows.data(), target, scale, gradient.data(), gradient.stride(), factor.data(),
                                  logits.rows(), logits.cols());
  }
  /// Of logit c of row r, as the head takes it into its products.
  [[nodiscard]] double gradient_of(std::int64_t r, std::int64_t c) const {
    return gradient.value(r, c) * value_of(factor[static_cast<std::size_t>(r)]);
  }

  std::vector<float> loss, factor;
  Rows<T> gradient;
};

/// One row without gaps.
Rows<float> row_of(const std::vector<float>& logits) {
  Rows<float> row(1, std::ssize(logits), 0, 0);
  std::copy(logits.begin(), logits.end(), row.data());
  return row;
}

template <class T>
void check_cross_entropy(const ElementwiseKernels& table, std::int64_t vocab, float cap, double spread) {
  constexpr std::int64_t kRows = 4;
  const Rows<float> logits = Rows<float>(kRows, vocab).fill(Normal(static_cast<unsigned>(42 + vocab), spread, -3.0));
  // Row 2 is masked; its target must not be read as an index.
  const std::int32_t target[kRows] = {static_cast<std::int32_t>(vocab - 1), 0, -1000000,
                                      static_cast<std::int32_t>(vocab / 2)};
  const float scale[kRows] = {0.25F, 1.0F, 0.0F, -2.0F};
  const Losses<T> all(table, logits, target, scale, cap, vocab, true);
  const std::vector<float>& loss = all.loss;
  EXPECT_EQ(loss, Losses<T>(table, logits, target, scale, cap, vocab, false).loss);
  // Cut into strips of whole blocks: the same bits.
  const Losses<T> cut(table, logits, target, scale, cap, kCrossEntropyBlock, true);
  EXPECT_EQ(loss, cut.loss);
  for (std::int64_t r = 0; r < kRows; ++r) EXPECT_TRUE(cut.gradient.same_bits(r, all.gradient, r));
  for (std::int64_t r = 0; r < kRows; ++r) {
    const auto row = static_cast<std::size_t>(r);
    if (scale[r] == 0.0F) {
      EXPECT_EQ(loss[row], 0.0F);
      for (std::int64_t c = 0; c < vocab; ++c) ASSERT_EQ(all.gradient_of(r, c), 0.0);
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
      ASSERT_NEAR(all.gradient_of(r, c), exact, bound) << "vocab " << vocab << " row " << r << " c " << c;
    }
    // The row alone and elsewhere: the same bits.
    Rows<float> one(1, vocab, 0, r);
    for (std::int64_t c = 0; c < vocab; ++c) one.at(0, c) = logits.at(r, c);
    const Losses<T> alone(table, one, target + r, scale + r, cap, vocab, true);
    EXPECT_EQ(alone.loss[0], loss[row]);
    EXPECT_TRUE(alone.gradient.same_bits(0, all.gradient, r));
  }
  EXPECT_TRUE(all.gradient.gaps_untouched());
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

// Later blocks rise a little above what exponentials count from, much above it (then they count anew), fall, or the first
// has no maximum at all (-inf).
TEST(CrossEntropy, MaximumMovesBetweenBlocks) {
  constexpr std::int64_t kVocab = 6 * kCrossEntropyBlock + 5;
  for (const ElementwiseKernels* table : elementwise_tables()) {
    for (int kind = 0; kind < 4; ++kind) {
      std::vector<float> logits(kVocab);
      for (std::int64_t i = 0; i < kVocab; ++i) {
        const float rising = static_cast<float>(i) / 100.0F;
        const float values[] = {rising, -rising, i < 2100 ? -kInfinity : rising, 20.0F * rising};
        logits[static_cast<std::size_t>(i)] = values[kind];
      }
      const Vector exact(logits.begin(), logits.end());
      const std::int32_t target = 3000;
      const float scale = 1.0F;
      const double size = std::abs(exact.back());
      const Losses<float> got(*table, row_of(logits), &target, &scale, 0.0F, 2 * kCrossEntropyBlock, true);
      const double loss = loss_of(exact, 3000, 0.0);
      EXPECT_NEAR(value_of(got.loss[0]), loss, 1e-4 + 1e-7 * loss) << table->name << " kind " << kind;
      const Vector want = gradient_of(exact, 3000, 0.0, 1.0);
      for (std::int64_t i = 0; i < kVocab; ++i) {
        const double expected = want[static_cast<std::size_t>(i)];
        ASSERT_NEAR(got.gradient_of(0, i), expected, 1e-6 + (1e-5 + 2e-7 * size) * std::abs(expected))
            << table->name << " kind " << kind << " logit " << i;
      }
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
          const Losses<float> got(*table, row_of(logits), &target, &scale, 0.0F, vocab, false);
          EXPECT_FALSE(std::isfinite(got.loss[0])) << table->name << " vocab " << vocab << " at " << at;
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
    const Losses<bf16> got(*table, row_of(logits), &target, &scale, 0.0F, 4, true);
    const double want = gradient_of(exact, 0, 0.0, 1.0)[0];
    EXPECT_NEAR(got.gradient_of(0, 0), want, 0.01 * std::abs(want));
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
