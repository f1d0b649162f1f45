// The reference itself: its gradients against central differences, its forward pass against properties that do not depend
// on how it is written, its optimizer against values worked out by hand.
#include "support/reference_model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>

namespace quern {
namespace {

// GPT-2's row of the table, very small.
ModelConfig gpt2_style() {
  ModelConfig c;
  c.vocab = 11;
  c.context = 6;
  c.layers = 2;
  c.width = 8;
  c.heads = 2;
  c.kv_heads = 2;
  c.head_dim = 4;
  c.mlp_width = 12;
  c.norm = NormKind::layer_norm;
  c.position = PositionKind::learned;
  c.mlp = MlpKind::gelu;
  c.attention_bias = c.mlp_bias = c.norm_bias = true;
  c.tied_embeddings = true;
  return c;
}

// Llama's, with grouped queries, QK norm and tied embeddings; heads * head_dim differs from width.
ModelConfig llama_style() {
  ModelConfig c = gpt2_style();
  c.heads = 4;
  c.kv_heads = 2;
  c.norm = NormKind::rms_norm;
  c.position = PositionKind::rope;
  c.rope_base = 50.0F;
  c.mlp = MlpKind::swiglu;
  c.attention_bias = c.mlp_bias = c.norm_bias = false;
  c.qk_norm = true;
  return c;
}

// Every tensor random, norms around 1, large enough that every derivative matters.
std::vector<double> random_parameters(const ParameterLayout& layout, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0.0, 0.4);
  std::vector<double> values(static_cast<std::size_t>(layout.elements), 0.0);
  for (const Parameter& p : layout.parameters) {
    for (std::int64_t i = 0; i < p.count(); ++i) {
      values[static_cast<std::size_t>(p.offset + i)] = normal(random) + (p.kind == ParameterKind::norm ? 1.0 : 0.0);
    }
  }
  return values;
}

// Two micro-batches of two sequences each, two tokens masked.
std::vector<ReferenceBatch> two_micro_batches(const ModelConfig& c) {
  std::vector<ReferenceBatch> batches = {random_reference_batch(c, 2, c.context, 5), random_reference_batch(c, 1, 3, 6)};
  batches[0].weights[1] = 0.0;
  batches[1].weights[2] = 0.0;
  return batches;
}

// Five-point central differences: the truncation error is h^4 f^(5) / 30 (measured: below 1e-7 of the gradient in the most
// curved case, where one key head's norm is nearly 0) and rounding about 1e-16 / h, so a right gradient agrees to better
// than 1e-6 of its tensor's norm. At most kSampled random elements per tensor are checked.
void expect_gradients_match(const ModelConfig& config) {
  constexpr std::size_t kSampled = 12;
  constexpr double kStep = 5e-5;
  ASSERT_TRUE(validate(config).has_value()) << validate(config).error().message;
  const ParameterLayout layout = parameter_layout(config);
  std::vector<double> parameters = random_parameters(layout, 17);
  for (const Parameter& p : layout.parameters) {  // many gates and ups beyond the clamps
    const bool clamped = config.mlp == MlpKind::swiglu_clamped && p.name.find("ffn_gate_up") != std::string::npos;
    if (!clamped || p.kind != ParameterKind::bias) continue;
    for (std::int64_t i = 0; i < p.count(); ++i) parameters[static_cast<std::size_t>(p.offset + i)] *= 15.0;
  }
  const std::vector<ReferenceBatch> batches = two_micro_batches(config);
  std::vector<double> gradients(parameters.size(), NAN);
  const double loss = reference_loss_and_gradients(config, layout, parameters, batches, gradients);
  EXPECT_DOUBLE_EQ(loss, reference_loss(config, layout, parameters, batches));

  std::mt19937_64 random(4);
  for (const Parameter& p : layout.parameters) {
    double error = 0.0, size = 0.0;
    std::vector<std::size_t> sample(static_cast<std::size_t>(p.count()));
    std::iota(sample.begin(), sample.end(), static_cast<std::size_t>(p.offset));
    std::shuffle(sample.begin(), sample.end(), random);
    sample.resize(std::min(sample.size(), kSampled));
    for (const std::size_t at : sample) {
      const double value = parameters[at];
      const auto loss_at = [&](double offset) {
        parameters[at] = value + offset;
        return reference_loss(config, layout, parameters, batches);
      };
      const double wide = loss_at(2 * kStep) - loss_at(-2 * kStep);
      const double narrow = loss_at(kStep) - loss_at(-kStep);
      parameters[at] = value;
      const double numeric = (8.0 * narrow - wide) / (12.0 * kStep);
      error += (numeric - gradients[at]) * (numeric - gradients[at]);
      size += numeric * numeric;
    }
    EXPECT_GT(size, 0.0) << p.name << " has no effect";
    EXPECT_LE(std::sqrt(error), 1e-6 * std::sqrt(size)) << p.name;
  }
}

struct Case {
  std::string name;
  ModelConfig config;
};
template <class Change>
Case with(std::string name, ModelConfig config, Change change) {
  change(config);
  return {std::move(name), config};
}

class ReferenceGradients : public testing::TestWithParam<Case> {};

TEST_P(ReferenceGradients, MatchCentralDifferences) { expect_gradients_match(GetParam().config); }

INSTANTIATE_TEST_SUITE_P(
    Options, ReferenceGradients,
    testing::Values(Case{"Gpt2", gpt2_style()}, Case{"Llama", llama_style()},
                    with("LayerNormWithoutBias", gpt2_style(), [](ModelConfig& c) { c.norm_bias = false; }),
                    with("RmsNormWithLearnedPositions", gpt2_style(),
                         [](ModelConfig& c) {
                           c.norm = NormKind::rms_norm;
                           c.norm_bias = false;
                         }),
                    with("NoPositions", gpt2_style(), [](ModelConfig& c) { c.position = PositionKind::none; }),
                    with("RopeAdjacent", llama_style(), [](ModelConfig& c) { c.rope_pairing = RopePairing::adjacent; }),
                    with("RopePartialHalves", llama_style(),
                         [](ModelConfig& c) {
                           c.head_dim = 8;
                           c.rope_dims = 4;
                         }),
                    with("RopePartialAdjacent", llama_style(),
                         [](ModelConfig& c) {
                           c.head_dim = 6;
                           c.rope_dims = 4;
                           c.rope_pairing = RopePairing::adjacent;
                         }),
                    with("RopeWithoutQkNorm", llama_style(), [](ModelConfig& c) { c.qk_norm = false; }),
                    with("GeluErf", gpt2_style(), [](ModelConfig& c) { c.mlp = MlpKind::gelu_erf; }),
                    with("Relu2", gpt2_style(), [](ModelConfig& c) { c.mlp = MlpKind::relu2; }),
                    with("GegluWithBias", llama_style(),
                         [](ModelConfig& c) {
                           c.mlp = MlpKind::geglu;
                           c.mlp_bias = true;
                         }),
                    with("MultiQuery", llama_style(), [](ModelConfig& c) { c.kv_heads = 1; }),
                    with("MultiHeadWithQkNormAndBias", llama_style(),
                         [](ModelConfig& c) {
                           c.kv_heads = c.heads;
                           c.attention_bias = true;
                         }),
                    with("QkvBias", llama_style(), [](ModelConfig& c) { c.qkv_bias = true; }),
                    with("PostNorms", llama_style(), [](ModelConfig& c) { c.post_norms = true; }),
                    with("PostNormsAroundLayerNorm", gpt2_style(), [](ModelConfig& c) { c.post_norms = true; }),
                    with("RopeBaseOfWindowedLayers", llama_style(),
                         [](ModelConfig& c) {
                           c.window = 3;
                           c.window_period = 2;
                           c.rope_base_windowed = 5.0F;
                           c.rope_scaling = RopeScaling::linear;
                           c.rope_factor = 2.0F;
                         }),
                    with("RopeYarn", llama_style(),
                         [](ModelConfig& c) {
                           c.rope_scaling = RopeScaling::yarn;
                           c.rope_factor = 4.0F;
                           c.rope_original_context = 8;
                         }),
                    with("RopeFactors", llama_style(),
                         [](ModelConfig& c) {
                           c.rope_scaling = RopeScaling::factors;
                           c.rope_factors = {1.0F, 3.0F};
                           c.rope_magnitude = 1.2F;
                         }),
                    with("AttentionScale", llama_style(), [](ModelConfig& c) { c.attention_scale = 0.8F; }),
                    with("AttentionSinks", llama_style(),
                         [](ModelConfig& c) {
                           c.attention_sinks = true;
                           c.window = 3;
                           c.window_period = 2;
                           c.attention_soft_cap = 1.5F;
                         }),
                    with("ClampedSwiglu", llama_style(),
                         [](ModelConfig& c) {
                           c.mlp = MlpKind::swiglu_clamped;
                           c.mlp_bias = true;
                         }),
                    with("Experts", llama_style(),
                         [](ModelConfig& c) {
                           c.experts = 5;
                           c.experts_used = 2;
                         }),
                    with("ExpertsWithBiasesAndPostNorms", llama_style(),
                         [](ModelConfig& c) {
                           c.mlp = MlpKind::swiglu_clamped;
                           c.experts = c.experts_used = 3;
                           c.mlp_bias = c.router_bias = c.post_norms = true;
                         }),
                    with("Untied", llama_style(), [](ModelConfig& c) { c.tied_embeddings = false; }),
                    with("EmbeddingScale", gpt2_style(), [](ModelConfig& c) { c.embedding_scale = 2.5F; }),
                    with("FinalSoftCap", llama_style(), [](ModelConfig& c) { c.final_soft_cap = 2.0F; }),
                    with("AttentionSoftCap", llama_style(), [](ModelConfig& c) { c.attention_soft_cap = 1.5F; }),
                    with("WindowEveryLayer", llama_style(), [](ModelConfig& c) { c.window = 2; }),
                    with("WindowAlternating", llama_style(),
                         [](ModelConfig& c) {
                           c.window = 3;
                           c.window_period = 2;
                         })),
    [](const testing::TestParamInfo<Case>& test) { return test.param.name; });

// ---- forward properties ----

struct Model {
  ModelConfig config;
  ParameterLayout layout;
  std::vector<double> parameters;
};
Model make_model(const ModelConfig& config) {
  Model m{config, parameter_layout(config), {}};
  m.parameters = random_parameters(m.layout, 3);
  return m;
}
std::vector<double> logits(const Model& m, const ReferenceBatch& batch) {
  return reference_logits(m.config, m.layout, m.parameters, batch);
}
double largest_difference(std::span<const double> a, std::span<const double> b) {
  double largest = a.size() == b.size() ? 0.0 : INFINITY;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

TEST(ReferenceModel, ZeroParametersGiveTheUniformLoss) {
  const Model m = make_model(gpt2_style());
  const std::vector<double> zeros(m.parameters.size(), 0.0);
  EXPECT_NEAR(reference_loss(m.config, m.layout, zeros, two_micro_batches(m.config)), std::log(11.0), 1e-14);
}

TEST(ReferenceModel, LaterTokensDoNotChangeEarlierRows) {
  for (const ModelConfig& config : {gpt2_style(), llama_style()}) {
    const Model m = make_model(config);
    const auto vocab = static_cast<std::size_t>(config.vocab);
    ReferenceBatch batch = random_reference_batch(config, 1, 6, 1);
    const std::vector<double> before = logits(m, batch);
    batch.inputs[4] = (batch.inputs[4] + 1) % 11;
    const std::vector<double> after = logits(m, batch);
    EXPECT_EQ(std::vector(before.begin(), before.begin() + 4 * vocab),
              std::vector(after.begin(), after.begin() + 4 * vocab));
    EXPECT_GT(largest_difference(std::span(before).subspan(4 * vocab), std::span(after).subspan(4 * vocab)), 1e-3);
  }
}

TEST(ReferenceModel, SequencesOfABatchDoNotSeeEachOther) {
  const Model m = make_model(llama_style());
  const ReferenceBatch two = random_reference_batch(m.config, 2, 5, 1);
  ReferenceBatch second = random_reference_batch(m.config, 1, 5, 1);
  std::copy(two.inputs.begin() + 5, two.inputs.end(), second.inputs.begin());
  const std::vector<double> both = logits(m, two);
  const std::vector<double> alone = logits(m, second);
  EXPECT_EQ(std::vector(both.begin() + static_cast<std::ptrdiff_t>(both.size() / 2), both.end()), alone);
}

TEST(ReferenceModel, RopeDependsOnDistancesOnly) {
  for (const RopePairing pairing : {RopePairing::adjacent, RopePairing::halves}) {
    ModelConfig config = llama_style();
    config.rope_pairing = pairing;
    const Model m = make_model(config);
    ReferenceBatch batch = random_reference_batch(config, 1, 6, 1);
    const std::vector<double> at_start = logits(m, batch);
    for (std::int32_t& position : batch.positions) position += 7;
    EXPECT_LT(largest_difference(at_start, logits(m, batch)), 1e-12);
    batch.positions[3] += 1;
    EXPECT_GT(largest_difference(at_start, logits(m, batch)), 1e-3);
  }
}

TEST(ReferenceModel, WindowOfOneMixesNothing) {
  ModelConfig config = llama_style();
  config.window = 1;
  const Model m = make_model(config);
  ReferenceBatch batch = random_reference_batch(config, 1, 6, 1);
  const std::vector<double> before = logits(m, batch);
  batch.inputs[2] = (batch.inputs[2] + 1) % 11;
  const std::vector<double> after = logits(m, batch);
  EXPECT_EQ(std::vector(before.end() - 3 * 11, before.end()), std::vector(after.end() - 3 * 11, after.end()));
}

// Two layers with window 2 reach 2 positions back; with every second layer windowed the last token sees all.
TEST(ReferenceModel, WindowPeriodLeavesTheLastLayerOfEachPeriodOpen) {
  for (const std::int64_t period : {1, 2}) {
    ModelConfig config = llama_style();
    config.window = 2;
    config.window_period = period;
    const Model m = make_model(config);
    ReferenceBatch batch = random_reference_batch(config, 1, 6, 1);
    const std::vector<double> before = logits(m, batch);
    batch.inputs[0] = (batch.inputs[0] + 1) % 11;
    const std::vector<double> after = logits(m, batch);
    const double change = largest_difference(std::span(before).last(11), std::span(after).last(11));
    if (period == 1) {
      EXPECT_EQ(change, 0.0);
    } else {
      EXPECT_GT(change, 1e-6);
    }
  }
}

TEST(ReferenceModel, GroupedQueriesEqualMultiHeadWithRepeatedKeysAndValues) {
  ModelConfig grouped = llama_style();
  ModelConfig full = grouped;
  full.kv_heads = full.heads;
  const Model g = make_model(grouped);
  Model f = make_model(full);
  const std::int64_t head_elements = grouped.head_dim * grouped.width;
  for (std::size_t i = 0; i < g.layout.parameters.size(); ++i) {
    const Parameter& from = g.layout.parameters[i];
    const Parameter& to = f.layout.parameters[i];
    ASSERT_EQ(from.name, to.name);
    const double* source = g.parameters.data() + from.offset;
    double* target = f.parameters.data() + to.offset;
    if (from.count() == to.count()) {
      std::copy(source, source + from.count(), target);
      continue;
    }
    // Heads of the full model 0..3 q, 4..7 k, 8..11 v; of the grouped one 0..3 q, 4..5 k, 6..7 v.
    for (std::int64_t head = 0; head < 12; ++head) {
      const std::int64_t read = head < 4 ? head : head < 8 ? 4 + (head - 4) / 2 : 6 + (head - 8) / 2;
      std::copy(source + read * head_elements, source + (read + 1) * head_elements, target + head * head_elements);
    }
  }
  const ReferenceBatch batch = random_reference_batch(grouped, 1, 6, 2);
  EXPECT_EQ(logits(g, batch), logits(f, batch));
}

TEST(ReferenceModel, MaskedTargetsChangeNeitherLossNorGradients) {
  const Model m = make_model(llama_style());
  std::vector<ReferenceBatch> batches = two_micro_batches(m.config);
  std::vector<double> first(m.parameters.size()), second(m.parameters.size());
  const double loss = reference_loss_and_gradients(m.config, m.layout, m.parameters, batches, first);
  batches[0].targets[1] = -100;
  EXPECT_EQ(loss, reference_loss_and_gradients(m.config, m.layout, m.parameters, batches, second));
  EXPECT_EQ(first, second);
}

TEST(ReferenceModel, MicroBatchesSumToTheWholeBatch) {
  const Model m = make_model(gpt2_style());
  const ReferenceBatch whole = random_reference_batch(m.config, 2, 4, 9);
  std::vector<ReferenceBatch> halves(2);
  for (std::size_t h = 0; h < 2; ++h) {
    halves[h] = random_reference_batch(m.config, 1, 4, 1);
    std::copy_n(whole.inputs.begin() + static_cast<std::ptrdiff_t>(4 * h), 4, halves[h].inputs.begin());
    std::copy_n(whole.targets.begin() + static_cast<std::ptrdiff_t>(4 * h), 4, halves[h].targets.begin());
  }
  std::vector<double> once(m.parameters.size()), split(m.parameters.size());
  const double loss = reference_loss_and_gradients(m.config, m.layout, m.parameters, std::span(&whole, 1), once);
  EXPECT_NEAR(loss, reference_loss_and_gradients(m.config, m.layout, m.parameters, halves, split), 1e-13);
  EXPECT_LT(largest_difference(once, split), 1e-13);
}

TEST(ReferenceModel, SoftCapsBoundLogits) {
  ModelConfig config = llama_style();
  config.final_soft_cap = 0.5F;
  const Model m = make_model(config);
  for (const double logit : logits(m, random_reference_batch(config, 1, 6, 1))) EXPECT_LT(std::abs(logit), 0.5);
}

// ---- the optimizer ----

TEST(ReferenceAdamW, FirstStepMovesByTheLearningRateAgainstTheGradient) {
  const Model m = make_model(gpt2_style());
  std::vector<double> parameters = m.parameters;
  const std::vector<double> gradients(parameters.size(), -0.25);
  ReferenceAdamWState state;
  const ReferenceAdamW settings{.learning_rate = 0.01, .eps = 0.0, .weight_decay = 0.5};
  const double norm = reference_adamw_step(settings, m.layout, gradients, state, parameters);
  EXPECT_NEAR(norm, 0.25 * std::sqrt(static_cast<double>(m.layout.parameter_count())), 1e-12);
  for (const Parameter& p : m.layout.parameters) {
    const auto at = static_cast<std::size_t>(p.offset);
    const bool decays = p.kind != ParameterKind::norm && p.kind != ParameterKind::bias;
    EXPECT_NEAR(parameters[at], m.parameters[at] * (decays ? 1.0 - 0.01 * 0.5 : 1.0) + 0.01, 1e-12) << p.name;
  }
}

// With eps as large as the gradients, scaling them matters: m^ / (v^0.5 + eps) = g s / (|g| s + eps).
TEST(ReferenceAdamW, ClipsByTheGlobalNorm) {
  const Model m = make_model(gpt2_style());
  std::vector<double> parameters = m.parameters;
  const std::vector<double> gradients(parameters.size(), 1.0);
  ReferenceAdamWState state;
  const ReferenceAdamW settings{.learning_rate = 1.0, .eps = 1.0, .weight_decay = 0.0, .clip_norm = 2.0};
  const double norm = reference_adamw_step(settings, m.layout, gradients, state, parameters);
  const double scaled = 2.0 / norm;
  EXPECT_NEAR(parameters[0], m.parameters[0] - scaled / (scaled + 1.0), 1e-12);
}

TEST(ReferenceAdamW, TwoStepsByHand) {
  const Model m = make_model(gpt2_style());
  std::vector<double> parameters = m.parameters;
  ReferenceAdamWState state;
  const ReferenceAdamW settings{.learning_rate = 0.1, .beta1 = 0.5, .beta2 = 0.75, .eps = 0.0, .weight_decay = 0.0};
  std::vector<double> gradients(parameters.size(), 1.0);
  reference_adamw_step(settings, m.layout, gradients, state, parameters);
  std::fill(gradients.begin(), gradients.end(), 3.0);
  reference_adamw_step(settings, m.layout, gradients, state, parameters);
  // m = 0.5 * 0.5 + 0.5 * 3 = 1.75, m^ = 1.75 / 0.75; v = 0.75 * 0.25 + 0.25 * 9 = 2.4375, v^ = 2.4375 / 0.4375.
  const double expected = m.parameters[0] - 0.1 - 0.1 * (1.75 / 0.75) / std::sqrt(2.4375 / 0.4375);
  EXPECT_NEAR(parameters[0], expected, 1e-12);
}

TEST(ReferenceTraining, TenStepsLowerTheLoss) {
  const Model m = make_model(llama_style());
  std::vector<double> parameters = m.parameters;
  std::vector<double> gradients(parameters.size());
  ReferenceAdamWState state;
  const std::vector<ReferenceBatch> batches = two_micro_batches(m.config);
  const double first = reference_loss(m.config, m.layout, parameters, batches);
  for (int step = 0; step < 10; ++step) {
    reference_loss_and_gradients(m.config, m.layout, parameters, batches, gradients);
    reference_adamw_step({.learning_rate = 0.02, .clip_norm = 1.0}, m.layout, gradients, state, parameters);
  }
  EXPECT_LT(reference_loss(m.config, m.layout, parameters, batches), 0.8 * first);
}

}  // namespace
}  // namespace quern
