#include "support/model_harness.hpp"

#include <cstdlib>
#include <random>

namespace quern {

namespace {
ModelConfig llama_row() {
  ModelConfig c;
  c.vocab = 53;
  c.context = 24;
  c.layers = 2;
  c.width = 48;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 12;
  c.mlp_width = 80;
  return c;
}

ModelConfig gpt2_row() {
  ModelConfig c = llama_row();
  c.kv_heads = 4;
  c.norm = NormKind::layer_norm;
  c.norm_bias = true;
  c.position = PositionKind::learned;
  c.mlp = MlpKind::gelu;
  c.attention_bias = true;
  c.mlp_bias = true;
  return c;
}
}  // namespace

std::vector<NamedModel> tiny_models() {
  std::vector<NamedModel> models;
  const auto add = [&](const char* name, ModelConfig config) { models.push_back({name, config}); };
  add("gpt2", gpt2_row());
  ModelConfig c = llama_row();
  c.qk_norm = true;
  add("llama_gqa_qk_norm_tied", c);
  c = llama_row();
  c.tied_embeddings = false;
  c.rope_pairing = RopePairing::adjacent;
  c.rope_dims = 8;
  c.kv_heads = 1;
  add("llama_mqa_untied_partial_rope", c);
  c = llama_row();
  c.mlp = MlpKind::relu2;
  c.position = PositionKind::none;
  c.norm = NormKind::layer_norm;
  c.embedding_scale = 6.5F;
  add("relu2_no_position_layer_norm_without_bias", c);
  c = llama_row();
  c.mlp = MlpKind::geglu;
  c.final_soft_cap = 3.0F;
  c.attention_soft_cap = 2.0F;
  c.window = 5;
  c.window_period = 2;
  add("gemma_like_caps_window", c);
  c = gpt2_row();
  c.mlp = MlpKind::gelu_erf;
  c.width = 17;
  c.heads = 3;
  c.kv_heads = 3;
  c.head_dim = 5;
  c.mlp_width = 33;
  c.vocab = 31;
  add("awkward_sizes", c);
  c = llama_row();
  c.qkv_bias = true;
  c.tied_embeddings = false;
  add("qwen2_qkv_bias", c);
  c = llama_row();
  c.mlp = MlpKind::geglu;
  c.post_norms = true;
  c.window = 5;
  c.window_period = 2;
  c.mlp_bias = true;
  c.attention_scale = 0.4F;
  add("gemma2_post_norms", c);
  c = llama_row();
  c.window = 6;
  c.window_period = 2;
  c.rope_base_windowed = 20.0F;
  c.rope_scaling = RopeScaling::linear;
  c.rope_factor = 4.0F;
  add("gemma3_two_rope_bases", c);
  c = llama_row();
  c.rope_scaling = RopeScaling::yarn;
  c.rope_base = 100.0F;
  c.rope_factor = 8.0F;
  c.rope_original_context = 12;
  c.rope_beta_fast = 1.0F;
  c.rope_beta_slow = 0.1F;
  c.rope_magnitude = 0.9F;
  add("rope_yarn", c);
  c = llama_row();
  c.rope_scaling = RopeScaling::factors;
  c.rope_factors = {1.0F, 1.5F, 2.0F, 3.0F, 5.0F, 8.0F};
  c.rope_factors_long = {1.0F, 2.0F, 4.0F, 6.0F, 10.0F, 16.0F};
  c.rope_original_context = 16;
  c.rope_magnitude = 1.1F;
  add("rope_factors_of_long_contexts", c);
  c = llama_row();
  c.attention_sinks = true;
  c.attention_bias = true;
  c.window = 7;
  c.window_period = 2;
  add("sinks", c);
  c = llama_row();
  c.mlp = MlpKind::swiglu_clamped;
  c.mlp_bias = true;
  add("clamped_swiglu", c);
  c = llama_row();
  c.mlp_width = 40;
  c.experts = 4;
  c.experts_used = 2;
  c.qk_norm = true;
  add("qwen3_moe", c);
  c.experts = c.experts_used = 3;
  c.mlp_bias = true;
  c.norm = NormKind::layer_norm;
  c.norm_bias = true;
  c.post_norms = true;
  add("every_expert_used", c);
  c = llama_row();
  c.mlp_width = 24;
  c.mlp = MlpKind::swiglu_clamped;
  c.experts = 4;
  c.experts_used = 2;
  c.attention_bias = true;
  c.mlp_bias = true;
  c.router_bias = true;
  c.attention_sinks = true;
  c.window = 7;
  c.window_period = 2;
  add("gpt_oss", c);
  return models;
}

std::vector<float> tiny_parameters(const ModelConfig& config, const ParameterLayout& layout, std::uint64_t seed) {
  std::vector<float> parameters(static_cast<std::size_t>(layout.elements));
  initialize_parameters(config, layout, {.standard_deviation = 0.15F}, seed, parameters.data());
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, 0.2F);
  for (const Parameter& p : layout.parameters) {
    if (p.kind != ParameterKind::norm && p.kind != ParameterKind::bias) continue;
    // Large enough for many gates and ups beyond the clamps.
    const bool clamped = config.mlp == MlpKind::swiglu_clamped && p.name.find("ffn_gate_up") != std::string::npos;
    const float scale = clamped ? 30.0F : 1.0F;
    // The router's biases decide for even experts: the choice does not hang on roundings, and the others have no rows.
    const bool routes = p.name.find("ffn_gate_inp") != std::string::npos;
    for (std::int64_t i = 0; i < p.count(); ++i) {
      parameters[static_cast<std::size_t>(p.offset + i)] += scale * normal(random) + (routes && i % 2 == 0 ? 8.0F : 0.0F);
    }
  }
  return parameters;
}

HarnessBatch::HarnessBatch(const ReferenceBatch& reference)
    : inputs(reference.inputs),
      targets(reference.targets),
      positions(reference.positions),
      weights(reference.weights.begin(), reference.weights.end()) {
  for (const ReferenceSpan& span : reference.spans) sequences.push_back({span.first_row, span.rows});
}

BatchView HarnessBatch::view() const {
  return {
      static_cast<std::int64_t>(inputs.size()), inputs.data(), targets.data(), weights.data(), positions.data(), sequences};
}

ModelHarness::ModelHarness(const ModelConfig& model, const Backend& chosen, ComputeType compute, int threads,
                           std::int64_t max_rows, std::uint64_t seed, std::int64_t cached_bytes)
    : config(model),
      layout(parameter_layout(model)),
      backend(chosen),
      parameters(tiny_parameters(model, layout, seed)),
      gradients(static_cast<std::size_t>(layout.elements)),
      team(threads) {
  packs_ = std::make_unique<WeightPacks>(backend, compute, config, layout, true, plan_);
  pass_ = TrainingPass::create(backend, compute, config,
                               {.rows = max_rows,
                                .max_length = std::min(config.context, max_rows),
                                .max_sequences = max_rows,
                                .threads = threads,
                                .cached_bytes = cached_bytes},
                               true, plan_);
  scratch_bytes_ = pass_->scratch_bytes();
  const BufferId scratch = plan_.add("scratch", scratch_bytes_ * static_cast<std::size_t>(threads), MemoryCategory::scratch);
  if (!plan_.place()) std::abort();
  auto arena = Arena::allocate(plan_);
  if (!arena) std::abort();
  arena_ = std::move(*arena);
  pass_->bind(plan_, arena_);
  scratch_ = arena_.get<std::byte>(plan_, scratch);
  weights = packs_->view(parameters.data(), plan_, arena_, config.context);
  pack();
}

template <class Body>
void ModelHarness::run(Body&& body) {
  team.run([&](TeamMember& member) {
    Exec exec{member, backend, {scratch_ + static_cast<std::size_t>(member.index()) * scratch_bytes_, scratch_bytes_}};
    body(exec);
  });
}

void ModelHarness::pack() {
  run([&](Exec& exec) { packs_->pack(exec); });
}

double ModelHarness::forward_backward(const BatchView& batch, const PassOptions& options) {
  pass_->set_batch(batch, options);
  run([&](Exec& exec) { pass_->forward_backward(exec, weights, layout, gradients.data()); });
  return pass_->loss_sum();
}

double ModelHarness::evaluate(const BatchView& batch) {
  pass_->set_batch(batch, {});
  run([&](Exec& exec) { pass_->evaluate(exec, weights); });
  return pass_->loss_sum();
}

}  // namespace quern
