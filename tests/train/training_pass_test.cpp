// The model's forward and backward against the double-precision reference, on every instruction set and backend.
#include "train/training_pass.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "support/model_harness.hpp"

namespace quern {
namespace {

/// Several sequences of different lengths, some targets masked.
ReferenceBatch uneven_batch(const ModelConfig& config, std::uint64_t seed) {
  ReferenceBatch batch = random_reference_batch(config, 4, 17, seed);
  batch.spans = {{0, 17}, {17, 1}, {18, 22}, {40, 24}, {64, 4}};
  std::int64_t row = 0;
  for (const ReferenceSpan& span : batch.spans) {
    for (std::int64_t i = 0; i < span.rows; ++i)
      batch.positions[static_cast<std::size_t>(row++)] = static_cast<std::int32_t>(i);
  }
  for (std::size_t i = 3; i < batch.weights.size(); i += 5) batch.weights[i] = 0.0;
  return batch;
}

/// Sequences of one length, two of which make 32 rows: those that a pass takes through the layers in groups, one thread
/// each.
ReferenceBatch even_batch(const ModelConfig& config, std::uint64_t seed) {
  ReferenceBatch batch = random_reference_batch(config, 4, 16, seed);
  for (std::size_t i = 3; i < batch.weights.size(); i += 5) batch.weights[i] = 0.0;
  return batch;
}

double weight_sum(const ReferenceBatch& batch) {
  double sum = 0.0;
  for (const double w : batch.weights) sum += w;
  return sum;
}

struct Case {
  Backend backend;
  ComputeType compute;
  std::string name;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const KernelTable* table : supported_kernels()) {
    const std::string isa(isa_name(table->isa));
    all.push_back({{table, false}, ComputeType::f32, isa + " f32"});
    all.push_back({{table, false}, ComputeType::bf16, isa + " bf16"});
  }
  all.push_back({{supported_kernels().front(), true}, ComputeType::f32, "eigen f32"});
  all.push_back({{supported_kernels().front(), true}, ComputeType::bf16, "eigen bf16"});
  return all;
}

// Error model. f32: sums of a few hundred products through two layers lose a few bits: 2e-5 of a tensor's gradient norm,
// with room for ten operations in a row. bf16: each operand is rounded to 2^-9 relative; errors are random in sign, so about
// 2^-9 times the square root of the number of roundings on a path (some 30): 1 %; four times that is allowed.
double tolerance(ComputeType compute) { return compute == ComputeType::f32 ? 2e-4 : 4e-2; }

// Errors of bf16 in a router's logits, which are sums of 48 products of numbers around 1, stay well below this: models whose
// closest choice is no closer choose the same experts as the reference.
constexpr double kSafeRouterMargin = 0.5;

/// Of the tiny models, on the batches that `make_batch` makes.
void expect_loss_and_gradients_of_the_reference(ReferenceBatch (*make_batch)(const ModelConfig&, std::uint64_t),
                                                bool experts) {
  int compared_in_bf16 = 0;
  for (const NamedModel& model : tiny_models()) {
    if (model.config.experts > 0 && !experts) continue;
    const ReferenceBatch reference_batch = make_batch(model.config, 11);
    const HarnessBatch batch(reference_batch);
    const double total = weight_sum(reference_batch);
    const ParameterLayout layout = parameter_layout(model.config);
    const std::vector<float> start = tiny_parameters(model.config, layout, ModelHarness::kSeed);
    const std::vector<double> parameters(start.begin(), start.end());
    std::vector<double> expected(parameters.size());
    const double expected_loss =
        reference_loss_and_gradients(model.config, layout, parameters, std::span(&reference_batch, 1), expected);
    const double router_margin = reference_router_margin(model.config, layout, parameters, reference_batch);
    if (model.config.experts > 0 && router_margin >= kSafeRouterMargin) ++compared_in_bf16;
    for (const Case& test : cases()) {
      if (test.compute == ComputeType::bf16 && router_margin < kSafeRouterMargin) continue;
      SCOPED_TRACE(model.name + ", " + test.name);
      ModelHarness harness(model.config, test.backend, test.compute, 1, 80);
      const double loss =
          harness.forward_backward(batch.view(), {.gradient_scale = static_cast<float>(1.0 / total)}) / total;
      EXPECT_NEAR(loss, expected_loss, tolerance(test.compute) * 0.5);
      EXPECT_NEAR(harness.evaluate(batch.view()) / total, loss, 1e-6);
      for (const Parameter& p : harness.layout.parameters) {
        double difference = 0.0, norm = 0.0;
        for (std::int64_t i = p.offset; i < p.offset + p.count(); ++i) {
          const double want = expected[static_cast<std::size_t>(i)];
          const double got = static_cast<double>(harness.gradients[static_cast<std::size_t>(i)]);
          difference += (got - want) * (got - want);
          norm += want * want;
        }
        EXPECT_LE(std::sqrt(difference), tolerance(test.compute) * std::sqrt(norm) + 1e-7) << p.name;
      }
    }
  }
  if (experts) {
    EXPECT_GE(compared_in_bf16, 2) << "models with experts";
  }
}

TEST(TrainingPass, LossAndGradientsEqualTheReference) { expect_loss_and_gradients_of_the_reference(uneven_batch, true); }

// (Experts take all rows at once.)
TEST(TrainingPass, LossAndGradientsOfEvenSequencesEqualTheReference) {
  expect_loss_and_gradients_of_the_reference(even_batch, false);
}

void expect_same_bits_at_any_thread_count(ReferenceBatch (*make_batch)(const ModelConfig&, std::uint64_t)) {
  const Backend kernels{supported_kernels().front(), false};
  const Backend eigen{supported_kernels().front(), true};
  const std::pair<Backend, ComputeType> ways[] = {
      {kernels, ComputeType::f32}, {kernels, ComputeType::bf16}, {eigen, ComputeType::f32}};
  for (const NamedModel& model : tiny_models()) {
    const HarnessBatch batch(make_batch(model.config, 5));
    for (const auto& [backend, compute] : ways) {
      std::vector<float> first;
      double first_loss = 0.0;
      for (const int threads : {1, 2, 4}) {
        SCOPED_TRACE(model.name + ", " + std::to_string(threads) + " threads" + (backend.eigen ? ", Eigen" : ""));
        ModelHarness harness(model.config, backend, compute, threads, 80);
        PassOptions options;
        options.dropout = {.probability = 0.1F, .seed = 3, .step = 9};
        const double loss = harness.forward_backward(batch.view(), options);
        if (threads == 1) {
          first = harness.gradients;
          first_loss = loss;
        }
        EXPECT_EQ(loss, first_loss);
        EXPECT_TRUE(harness.gradients == first);
      }
    }
  }
}

TEST(TrainingPass, SameBitsAtAnyThreadCount) { expect_same_bits_at_any_thread_count(uneven_batch); }

// Four threads share each layer's work, for there are only two groups; one or two take a group through all layers.
TEST(TrainingPass, SameBitsAtAnyThreadCountOfEvenSequences) { expect_same_bits_at_any_thread_count(even_batch); }

// What is written past the caches, because there is so much of it, has the same bits.
TEST(TrainingPass, SameBitsWhereBuffersOutgrowTheCaches) {
  for (const KernelTable* table : supported_kernels()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      for (const NamedModel& model : tiny_models()) {
        SCOPED_TRACE(model.name + " " + std::string(isa_name(table->isa)));
        const HarnessBatch batch(uneven_batch(model.config, 5));
        ModelHarness cached(model.config, {table, false}, compute, 2, 80);
        ModelHarness streamed(model.config, {table, false}, compute, 2, 80, ModelHarness::kSeed, 0);
        EXPECT_EQ(cached.forward_backward(batch.view(), {}), streamed.forward_backward(batch.view(), {}));
        EXPECT_TRUE(cached.gradients == streamed.gradients);
      }
    }
  }
}

// Backend::fused false computes the same in other passes: the same bits in f32 (by the kernels; Eigen takes other functions
// for activations), rounded more often in bf16.
void expect_separate_passes_agree(ReferenceBatch (*make_batch)(const ModelConfig&, std::uint64_t), std::size_t count) {
  const KernelTable* const table = supported_kernels().front();
  const Case all[] = {{{table, false}, ComputeType::f32, "f32"},
                      {{table, false}, ComputeType::bf16, "bf16"},
                      {{table, true}, ComputeType::f32, "eigen"}};
  for (const NamedModel& model : tiny_models()) {
    const HarnessBatch batch(make_batch(model.config, 5));
    PassOptions options;
    options.dropout = {.probability = 0.1F, .seed = 3, .step = 9};
    for (const Case& test : std::span(all).first(count)) {
      // (Experts that are chosen by logits rounded otherwise can be others.)
      if (test.compute == ComputeType::bf16 && model.config.experts > 0) continue;
      SCOPED_TRACE(model.name + ", " + test.name);
      Backend apart = test.backend;
      apart.fused = false;
      ModelHarness fused(model.config, test.backend, test.compute, 2, 80);
      ModelHarness separate(model.config, apart, test.compute, 2, 80);
      const double loss = fused.forward_backward(batch.view(), options);
      const double other = separate.forward_backward(batch.view(), options);
      if (test.compute == ComputeType::f32 && !test.backend.eigen) {
        EXPECT_EQ(other, loss);
        EXPECT_TRUE(separate.gradients == fused.gradients);
        continue;
      }
      EXPECT_NEAR(other, loss, tolerance(test.compute) * std::abs(loss));
      double difference = 0.0, norm = 0.0;
      for (std::size_t i = 0; i < fused.gradients.size(); ++i) {
        const double want = static_cast<double>(fused.gradients[i]), got = static_cast<double>(separate.gradients[i]);
        difference += (got - want) * (got - want);
        norm += want * want;
      }
      EXPECT_LE(std::sqrt(difference), tolerance(test.compute) * std::sqrt(norm));
    }
  }
}

TEST(TrainingPass, SeparatePassesGiveTheSameGradients) {
  expect_separate_passes_agree(uneven_batch, 3);
  expect_separate_passes_agree(even_batch, 1);
}

TEST(TrainingPass, DropoutChangesWithTheStepAndScalesTheLossRight) {
  const ModelConfig config = tiny_models().front().config;
  const HarnessBatch batch(uneven_batch(config, 5));
  ModelHarness harness(config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
  const double plain = harness.forward_backward(batch.view());
  PassOptions options;
  options.dropout = {.probability = 0.2F, .seed = 3, .step = 1};
  const double one = harness.forward_backward(batch.view(), options);
  const double again = harness.forward_backward(batch.view(), options);
  options.dropout.step = 2;
  const double two = harness.forward_backward(batch.view(), options);
  EXPECT_EQ(one, again);
  EXPECT_NE(one, two);
  EXPECT_NE(one, plain);
  EXPECT_NEAR(one, plain, 0.3 * plain);
}

// With dropout on, the gradient must be that of the same masked network: central differences of our own loss. f32 losses of
// 60 tokens carry about 1e-5 of noise, so the step is large and the tolerance is loose; a mask that differed between forward
// and backward would be off by 20 % and more.
void expect_gradients_of_the_same_mask(const ModelConfig& config) {
  const HarnessBatch batch(uneven_batch(config, 5));
  ModelHarness harness(config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
  PassOptions options;
  options.dropout = {.probability = 0.2F, .seed = 3, .step = 1};
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> direction(harness.parameters.size());
  for (const Parameter& p : harness.layout.parameters) {
    for (std::int64_t i = 0; i < p.count(); ++i) direction[static_cast<std::size_t>(p.offset + i)] = normal(random);
  }
  harness.forward_backward(batch.view(), options);
  double slope = 0.0;
  for (std::size_t i = 0; i < direction.size(); ++i) {
    slope += static_cast<double>(direction[i]) * static_cast<double>(harness.gradients[i]);
  }
  const std::vector<float> start = harness.parameters;
  const float step = 1e-3F;
  double loss[2];
  for (int side = 0; side < 2; ++side) {
    for (std::size_t i = 0; i < start.size(); ++i) {
      harness.parameters[i] = start[i] + (side == 0 ? -step : step) * direction[i];
    }
    harness.pack();
    loss[side] = harness.forward_backward(batch.view(), options);
  }
  const double measured = (loss[1] - loss[0]) / (2.0 * static_cast<double>(step));
  EXPECT_NEAR(measured, slope, 0.02 * std::abs(slope) + 0.02);
}

TEST(TrainingPass, GradientsUnderDropoutAreThoseOfTheSameMask) {
  int checked = 0;
  for (const NamedModel& model : tiny_models()) {
    // Models whose halves end in different ways; the step changes no choice of experts.
    if (model.name != "llama_gqa_qk_norm_tied" && model.name != "gemma2_post_norms" && model.name != "every_expert_used" &&
        model.name != "gpt_oss") {
      continue;
    }
    SCOPED_TRACE(model.name);
    expect_gradients_of_the_same_mask(model.config);
    ++checked;
  }
  EXPECT_EQ(checked, 4);
}

TEST(TrainingPass, AccumulationAddsGradients) {
  for (const NamedModel& model : tiny_models()) {
    SCOPED_TRACE(model.name);
    const HarnessBatch a(uneven_batch(model.config, 5));
    const HarnessBatch b(random_reference_batch(model.config, 2, 20, 6));
    ModelHarness harness(model.config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
    harness.forward_backward(a.view());
    const std::vector<float> of_a = harness.gradients;
    harness.forward_backward(b.view());
    const std::vector<float> of_b = harness.gradients;
    harness.forward_backward(a.view());
    harness.forward_backward(b.view(), {.accumulate = true});
    for (std::size_t i = 0; i < of_a.size(); ++i) {
      ASSERT_NEAR(harness.gradients[i], of_a[i] + of_b[i], 1e-5 * (1.0 + std::abs(of_a[i]) + std::abs(of_b[i]))) << i;
    }
  }
}

TEST(TrainingPass, MaskedTokensCannotChangeTheLossOrGradient) {
  const ModelConfig config = tiny_models().front().config;
  ReferenceBatch reference = uneven_batch(config, 5);
  ModelHarness harness(config, {supported_kernels().front(), false}, ComputeType::f32, 1, 80);
  const double loss = harness.forward_backward(HarnessBatch(reference).view());
  const std::vector<float> gradients = harness.gradients;
  for (std::size_t i = 0; i < reference.targets.size(); ++i) {
    if (reference.weights[i] == 0.0)
      reference.targets[i] = static_cast<std::int32_t>((reference.targets[i] + 1) % config.vocab);
  }
  EXPECT_EQ(harness.forward_backward(HarnessBatch(reference).view()), loss);
  EXPECT_TRUE(harness.gradients == gradients);

  std::fill(reference.weights.begin(), reference.weights.end(), 0.0);
  EXPECT_EQ(harness.forward_backward(HarnessBatch(reference).view()), 0.0);
  for (const float g : harness.gradients) ASSERT_EQ(g, 0.0F);
}

// A sequence's losses are the same bits alone, in a batch, and wherever in the batch it stands.
TEST(TrainingPass, ABatchOfOneEqualsItsRowOfMany) {
  for (const NamedModel& model : tiny_models()) {
    for (const ComputeType compute : {ComputeType::f32, ComputeType::bf16}) {
      SCOPED_TRACE(model.name);
      const std::int64_t length = 19;
      const ReferenceBatch many = random_reference_batch(model.config, 4, length, 8);
      ModelHarness harness(model.config, {supported_kernels().front(), false}, compute, 2, 80);
      const HarnessBatch all(many);
      harness.evaluate(all.view());
      const std::vector<float> together(harness.row_losses().begin(), harness.row_losses().end());
      const auto pick = [&](const std::vector<std::int64_t>& order) {
        ReferenceBatch batch;
        for (const std::int64_t s : order) {
          batch.spans.push_back({static_cast<std::int64_t>(batch.inputs.size()), length});
          for (std::int64_t i = s * length; i < (s + 1) * length; ++i) {
            const auto row = static_cast<std::size_t>(i);
            batch.inputs.push_back(many.inputs[row]);
            batch.targets.push_back(many.targets[row]);
            batch.weights.push_back(many.weights[row]);
            batch.positions.push_back(many.positions[row]);
          }
        }
        return batch;
      };
      for (const std::vector<std::int64_t>& order : {std::vector<std::int64_t>{2}, {3, 1, 0, 2}}) {
        const HarnessBatch picked(pick(order));
        harness.evaluate(picked.view());
        for (std::size_t s = 0; s < order.size(); ++s) {
          for (std::int64_t i = 0; i < length; ++i) {
            ASSERT_EQ(harness.row_losses()[s * static_cast<std::size_t>(length) + static_cast<std::size_t>(i)],
                      together[static_cast<std::size_t>(order[s] * length + i)]);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace quern
