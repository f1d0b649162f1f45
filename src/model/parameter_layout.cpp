// Which tensors a model has, where they stand in the f32 block, and what they hold before training.
#include <algorithm>
#include <cmath>
#include <span>
#include <string>

#include "math/philox.hpp"
#include "model/model_config.hpp"

namespace quern {

namespace {

/// Elements between the starts of tensors: one 64-byte cache line of f32, so that every tensor is aligned for all kernels.
constexpr std::int64_t kOffsetElements = 16;

/// Appends tensors in order and hands out their offsets.
class LayoutBuilder {
 public:
  int add(std::string name, ParameterKind kind, std::int64_t rows, std::int64_t cols = 1) {
    Parameter parameter;
    parameter.name = std::move(name);
    parameter.kind = kind;
    parameter.rows = rows;
    parameter.cols = cols;
    parameter.offset = layout_.elements;
    layout_.elements += (parameter.count() + kOffsetElements - 1) / kOffsetElements * kOffsetElements;
    layout_.parameters.push_back(std::move(parameter));
    return static_cast<int>(layout_.parameters.size()) - 1;
  }
  int add_if(bool wanted, std::string name, ParameterKind kind, std::int64_t rows, std::int64_t cols = 1) {
    return wanted ? add(std::move(name), kind, rows, cols) : -1;
  }
  ParameterLayout& layout() { return layout_; }

 private:
  ParameterLayout layout_;
};

void add_experts(LayoutBuilder& builder, const ModelConfig& c, const std::string& block, LayerParameters& p) {
  p.router = builder.add(block + "ffn_gate_inp.weight", ParameterKind::matrix, c.experts, c.width);
  p.router_bias = builder.add_if(c.router_bias, block + "ffn_gate_inp.bias", ParameterKind::bias, c.experts);
  const std::int64_t in_rows = c.experts * 2 * c.mlp_width;
  p.expert_in = builder.add(block + "ffn_gate_up_exps.weight", ParameterKind::matrix, in_rows, c.width);
  p.expert_in_bias = builder.add_if(c.mlp_bias, block + "ffn_gate_up_exps.bias", ParameterKind::bias, in_rows);
  const std::int64_t out_rows = c.experts * c.width;
  p.expert_out = builder.add(block + "ffn_down_exps.weight", ParameterKind::residual_matrix, out_rows, c.mlp_width);
  p.expert_out_bias = builder.add_if(c.mlp_bias, block + "ffn_down_exps.bias", ParameterKind::bias, out_rows);
  for (const int index : {p.expert_in, p.expert_out}) {
    Parameter& parameter = builder.layout().parameters[static_cast<std::size_t>(index)];
    parameter.experts = c.experts;
    parameter.experts_used = c.experts_used;
  }
}

LayerParameters add_layer(LayoutBuilder& builder, const ModelConfig& c, std::int64_t layer) {
  const std::string block = "blk." + std::to_string(layer) + ".";
  const std::string mlp_in = block + (c.gated() ? "ffn_gate_up" : "ffn_up");
  const std::int64_t mlp_in_rows = c.gated() ? 2 * c.mlp_width : c.mlp_width;
  LayerParameters p;
  p.norm1 = builder.add(block + "attn_norm.weight", ParameterKind::norm, c.width);
  p.norm1_bias = builder.add_if(c.norm_bias, block + "attn_norm.bias", ParameterKind::bias, c.width);
  p.qkv = builder.add(block + "attn_qkv.weight", ParameterKind::matrix, c.qkv_width(), c.width);
  p.qkv_bias = builder.add_if(c.has_qkv_bias(), block + "attn_qkv.bias", ParameterKind::bias, c.qkv_width());
  p.q_norm = builder.add_if(c.qk_norm, block + "attn_q_norm.weight", ParameterKind::norm, c.head_dim);
  p.k_norm = builder.add_if(c.qk_norm, block + "attn_k_norm.weight", ParameterKind::norm, c.head_dim);
  p.attention_out = builder.add(block + "attn_output.weight", ParameterKind::residual_matrix, c.width, c.query_width());
  p.attention_out_bias = builder.add_if(c.attention_bias, block + "attn_output.bias", ParameterKind::bias, c.width);
  p.sinks = builder.add_if(c.attention_sinks, block + "attn_sinks.weight", ParameterKind::bias, c.heads);
  p.post_norm1 = builder.add_if(c.post_norms, block + "post_attention_norm.weight", ParameterKind::norm, c.width);
  p.norm2 = builder.add(block + "ffn_norm.weight", ParameterKind::norm, c.width);
  p.norm2_bias = builder.add_if(c.norm_bias, block + "ffn_norm.bias", ParameterKind::bias, c.width);
  if (c.experts > 0) {
    add_experts(builder, c, block, p);
  } else {
    p.mlp_in = builder.add(mlp_in + ".weight", ParameterKind::matrix, mlp_in_rows, c.width);
    p.mlp_in_bias = builder.add_if(c.mlp_bias, mlp_in + ".bias", ParameterKind::bias, mlp_in_rows);
    p.mlp_out = builder.add(block + "ffn_down.weight", ParameterKind::residual_matrix, c.width, c.mlp_width);
    p.mlp_out_bias = builder.add_if(c.mlp_bias, block + "ffn_down.bias", ParameterKind::bias, c.width);
  }
  p.post_norm2 = builder.add_if(c.post_norms, block + "post_ffw_norm.weight", ParameterKind::norm, c.width);
  return p;
}

/// Random-stream purpose that sets initialization apart from every other use of a run's seed (dropout sites are small).
constexpr std::uint32_t kInitializationPurpose = 0x494E4954;  // "INIT"

}  // namespace

double mean_visible_keys(std::int64_t context, std::int64_t window) {
  const auto length = static_cast<double>(context);
  if (window == 0 || window >= context) return length / 2.0;
  const auto w = static_cast<double>(window);
  return w - w * w / (2.0 * length);
}

ParameterLayout parameter_layout(const ModelConfig& c) {
  LayoutBuilder builder;
  ParameterLayout& layout = builder.layout();
  layout.token_embedding = builder.add("token_embd.weight", ParameterKind::embedding, c.vocab, c.width);
  layout.position_embedding = builder.add_if(c.position == PositionKind::learned, "position_embd.weight",
                                             ParameterKind::embedding, c.context, c.width);
  layout.layers.reserve(static_cast<std::size_t>(c.layers));
  for (std::int64_t layer = 0; layer < c.layers; ++layer) layout.layers.push_back(add_layer(builder, c, layer));
  layout.final_norm = builder.add("output_norm.weight", ParameterKind::norm, c.width);
  layout.final_norm_bias = builder.add_if(c.norm_bias, "output_norm.bias", ParameterKind::bias, c.width);
  layout.head =
      c.tied_embeddings ? layout.token_embedding : builder.add("output.weight", ParameterKind::matrix, c.vocab, c.width);
  return std::move(layout);
}

std::int64_t ParameterLayout::parameter_count() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters) count += parameter.count();
  return count;
}

std::int64_t ParameterLayout::matmul_parameter_count() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : parameters) {
    if (parameter.kind == ParameterKind::matrix || parameter.kind == ParameterKind::residual_matrix) {
      count += parameter.count() / parameter.experts * parameter.experts_used;
    }
  }
  if (head == token_embedding && head >= 0) count += parameters[static_cast<std::size_t>(head)].count();
  return count;
}

double train_flops_per_token(const ModelConfig& config, std::int64_t context) {
  // Attention per token, layer and visible key: 2 C FLOP for the score and 2 C for the value, twice that backward.
  double attention = 0.0;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    attention +=
        12.0 * static_cast<double>(config.query_width()) * mean_visible_keys(context, config.attention_shape(layer).window);
  }
  return 6.0 * static_cast<double>(parameter_layout(config).matmul_parameter_count()) + attention;
}

void initialize_parameters(const ModelConfig& config, const ParameterLayout& layout, const Initialization& init,
                           std::uint64_t seed, float* parameters) {
  std::fill_n(parameters, layout.elements, 0.0F);
  const float residual_scale =
      init.scale_residual ? static_cast<float>(1.0 / std::sqrt(2.0 * static_cast<double>(config.layers))) : 1.0F;
  for (std::size_t i = 0; i < layout.parameters.size(); ++i) {
    const Parameter& parameter = layout.parameters[i];
    const std::span<float> values(parameters + parameter.offset, static_cast<std::size_t>(parameter.count()));
    const RandomStream stream{.seed = seed, .purpose = kInitializationPurpose, .stream = static_cast<std::uint32_t>(i)};
    switch (parameter.kind) {
      case ParameterKind::bias:
        break;
      case ParameterKind::norm:
        std::fill(values.begin(), values.end(), 1.0F);
        break;
      case ParameterKind::embedding:
      case ParameterKind::matrix:
        fill_normal(values, 0.0F, init.standard_deviation, stream);
        break;
      case ParameterKind::residual_matrix:
        fill_normal(values, 0.0F, init.standard_deviation * residual_scale, stream);
        break;
    }
  }
}

}  // namespace quern
