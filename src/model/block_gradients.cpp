// Sizes shared by a block's functions, and the gradients of its weights.
#include <algorithm>

#include "math/matmul.hpp"
#include "model/layers.hpp"
#include "model/layers_internal.hpp"

namespace quern {

std::size_t block_scratch_bytes(const Backend& backend, const ModelConfig& config, std::int64_t rows, bool training) {
  const std::int64_t hidden = config.gated() ? 2 * config.mlp_width : config.mlp_width;
  const std::int64_t widest = std::max({config.width, hidden, config.qkv_width(), config.experts});
  const std::int64_t routing = config.experts > 0 ? config.width + config.experts + config.experts_used : 0;
  const std::size_t own =
      static_cast<std::size_t>(std::max(rows * std::max(config.width, config.mlp_width), routing)) * sizeof(float);
  // In training, the activations of the feed-forward part besides.
  const auto activations = static_cast<std::size_t>(training ? rows * config.mlp_width : 0) * sizeof(float);
  return internal::SplitScratch::aligned(own) + internal::SplitScratch::aligned(activations) +
         matmul_scratch_bytes(backend, rows, widest) +
         (training
              ? 0
              : narrowing_scratch_bytes(backend, rows, std::max({config.width, config.mlp_width, config.query_width()})));
}

NormPartials norm_partials(const ModelConfig& config) {
  NormPartials at;
  std::int64_t next = 0;
  const auto take = [&](std::int64_t count) {
    const std::int64_t start = next;
    next += (count + 15) / 16 * 16;
    return start;
  };
  at.norm1 = take(config.width);
  at.norm2 = take(config.width);
  if (config.norm_bias) {
    at.norm1_bias = take(config.width);
    at.norm2_bias = take(config.width);
  }
  if (config.qk_norm) {
    at.q_norm = take(config.head_dim);
    at.k_norm = take(config.head_dim);
  }
  if (config.post_norms) {
    at.post_norm1 = take(config.width);
    at.post_norm2 = take(config.width);
  }
  if (config.attention_sinks) at.sinks = take(config.heads);
  at.width = next;
  return at;
}

template <class T>
void block_weight_gradients(Exec& exec, const ModelConfig& config, const ParameterLayout& layout, std::int64_t layer,
                            const BlockBuffers<T>& buffers, const BlockGradients<T>& gradients, std::int64_t rows,
                            bool accumulate, float* block) {
  using internal::rows_of;
  const LayerParameters& p = layout.layers[static_cast<std::size_t>(layer)];
  const RowRange all{0, rows};
  const auto target = [&](int index) {
    return index < 0 ? nullptr : block + layout.parameters[static_cast<std::size_t>(index)].offset;
  };
  const std::int64_t pre_width = config.gated() ? 2 * config.mlp_width : config.mlp_width;
  const auto marked = [&](Operation product, std::int64_t outputs, std::int64_t inputs) {
    mark(exec, product, StepPhase::weight_gradient, layer,
         weight_gradient_cost(rows, outputs, inputs, sizeof(T), accumulate));
  };
  if (config.experts > 0) {
    internal::expert_weight_gradients(exec, config, buffers, gradients, rows, accumulate,
                                      {.router = target(p.router),
                                       .router_bias = target(p.router_bias),
                                       .in = target(p.expert_in),
                                       .in_bias = target(p.expert_in_bias),
                                       .out = target(p.expert_out),
                                       .out_bias = target(p.expert_out_bias)});
    const auto slots = static_cast<double>(rows * config.experts_used);
    mark(exec, Operation::experts, StepPhase::weight_gradient, layer,
         {6.0 * slots * static_cast<double>(config.width * config.mlp_width), 0.0});
  } else {
    // mlp_backward left the activations there.
    const ConstMatrix act{buffers.mlp_pre, internal::element_type_of<T>(), rows, config.mlp_width, pre_width};
    matmul_backward_weight(exec, rows_of(gradients.mlp_out, all, config.width), act, target(p.mlp_out),
                           target(p.mlp_out_bias), accumulate);
    marked(Operation::mlp_out_product, config.width, config.mlp_width);
    matmul_backward_weight(exec, rows_of(gradients.mlp_pre, all, pre_width), rows_of(buffers.norm2_out, all, config.width),
                           target(p.mlp_in), target(p.mlp_in_bias), accumulate);
    marked(Operation::mlp_in_product, pre_width, config.width);
  }
  matmul_backward_weight(exec, rows_of(gradients.attention_out, all, config.width),
                         rows_of(buffers.attention, all, config.query_width()), target(p.attention_out),
                         target(p.attention_out_bias), accumulate);
  marked(Operation::attention_out_product, config.width, config.query_width());
  matmul_backward_weight(exec, rows_of(gradients.qkv, all, config.qkv_width()),
                         rows_of(buffers.norm1_out, all, config.width), target(p.qkv), target(p.qkv_bias), accumulate);
  marked(Operation::qkv_product, config.qkv_width(), config.width);

  // Sums of rows, in row order, in double, a few columns at a time.
  const NormPartials at = norm_partials(config);
  struct Piece {
    float* target;
    std::int64_t start;
    std::int64_t count;
  };
  const Piece pieces[] = {{target(p.norm1), at.norm1, config.width},
                          {target(p.norm1_bias), at.norm1_bias, config.width},
                          {target(p.norm2), at.norm2, config.width},
                          {target(p.norm2_bias), at.norm2_bias, config.width},
                          {target(p.q_norm), at.q_norm, config.head_dim},
                          {target(p.k_norm), at.k_norm, config.head_dim},
                          {target(p.post_norm1), at.post_norm1, config.width},
                          {target(p.post_norm2), at.post_norm2, config.width},
                          {target(p.sinks), at.sinks, config.heads}};
  exec.member.for_each(std::ssize(pieces), [&](std::int64_t index) {
    const Piece& piece = pieces[index];
    if (piece.target == nullptr) return;
    constexpr std::int64_t kColumns = 64;
    double sums[kColumns];
    for (std::int64_t begin = 0; begin < piece.count; begin += kColumns) {
      const std::int64_t columns = std::min(kColumns, piece.count - begin);
      float* const target_columns = piece.target + begin;
      for (std::int64_t i = 0; i < columns; ++i) sums[i] = accumulate ? static_cast<double>(target_columns[i]) : 0.0;
      const float* partial = gradients.norm_partials + piece.start + begin;
      for (std::int64_t group = 0; group < sum_groups(rows); ++group, partial += at.width) {
        for (std::int64_t i = 0; i < columns; ++i) sums[i] += static_cast<double>(partial[i]);
      }
      for (std::int64_t i = 0; i < columns; ++i) target_columns[i] = static_cast<float>(sums[i]);
    }
  });
  mark(exec, Operation::sums, StepPhase::weight_gradient, layer, moved_cost(sum_groups(rows) * at.width, sizeof(float)));
}

template void block_weight_gradients<float>(Exec&, const ModelConfig&, const ParameterLayout&, std::int64_t,
                                            const BlockBuffers<float>&, const BlockGradients<float>&, std::int64_t, bool,
                                            float*);
template void block_weight_gradients<bf16>(Exec&, const ModelConfig&, const ParameterLayout&, std::int64_t,
                                           const BlockBuffers<bf16>&, const BlockGradients<bf16>&, std::int64_t, bool,
                                           float*);

}  // namespace quern
