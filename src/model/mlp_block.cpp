// The feed-forward half of a block.
#include <algorithm>

#include "math/matmul.hpp"
#include "model/layers.hpp"
#include "model/layers_internal.hpp"

namespace quern {

using internal::mutable_rows_of;
using internal::offset_or_null;
using internal::rows_of;
using internal::SplitScratch;

template <class T>
void mlp_forward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                 const BlockDropout& dropout, RowRange range) {
  const ModelConfig& config = weights.config;
  const LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
  const std::int64_t width = config.width;
  const std::int64_t hidden = config.mlp_width;
  // Scratch holds what a member computes for itself: the norm, and when that is used up, the activations; in training,
  // activations that nobody keeps. Row 0 first.
  const bool keeps = buffers.mlp_act != nullptr;
  const bool own = buffers.norm2_rstd == nullptr && internal::computes_own(exec, range);
  const std::int64_t own_width = own ? std::max(width, config.experts > 0 ? 0 : hidden) : (keeps ? 0 : hidden);
  SplitScratch scratch(exec, static_cast<std::size_t>(range.rows() * own_width) * sizeof(T));
  T* const own_rows = reinterpret_cast<T*>(scratch.own);
  const ConstMatrix input = internal::normed_rows(exec, config, w.norm2, w.norm2_bias, buffers.x_mid, buffers.norm2_out,
                                                  buffers.norm2_mean, buffers.norm2_rstd, range, own_rows);
  mark(exec, Operation::norm, StepPhase::forward, layer, moved_cost(range.rows() * width, 4 + sizeof(T)));
  if (config.experts > 0) {
    if (own) exec.member.barrier();
    experts_forward(exec, weights, layer, buffers, dropout, range);
    return;
  }
  const bool own_act = own && config.gated();
  T* act = keeps && !(own_act && exec.member.index() > 0) ? buffers.mlp_act + range.begin * hidden : own_rows;
  const MutableMatrix act_rows = mutable_rows_of(act, {0, range.rows()}, hidden);
  const ConstMatrix act_input = rows_of(act, {0, range.rows()}, hidden);
  if (config.gated()) {
    internal::stacked_forward(scratch.inner, input, w.mlp_in, mutable_rows_of(buffers.mlp_pre, range, 2 * hidden),
                              w.mlp_in_bias);
    mark(exec, Operation::mlp_in_product, StepPhase::forward, layer,
         product_cost(range.rows(), 2 * hidden, width, sizeof(T), sizeof(T)));
    TeamMember alone = exec.member.alone();
    Exec serial{alone, exec.backend, {}};
    internal::gate(own_act ? serial : exec, config, buffers.mlp_pre + range.begin * 2 * hidden, act, {0, range.rows()});
    mark(exec, Operation::activation, StepPhase::forward, layer, moved_cost(range.rows() * hidden, 3 * sizeof(T)));
  } else {
    matmul_forward(scratch.inner, input, w.mlp_in.whole(), act_rows,
                   {.bias = w.mlp_in_bias,
                    .activation = config.activation(),
                    .pre_activation = offset_or_null(buffers.mlp_pre, range.begin * hidden),
                    .pre_activation_stride = hidden,
                    .stream_pre_activation = buffers.outgrow_caches});
    mark(exec, Operation::mlp_in_product, StepPhase::forward, layer,
         product_cost(range.rows(), hidden, width, sizeof(T), (buffers.mlp_pre != nullptr ? 2 : 1) * sizeof(T)));
  }
  OperationCost out_product = product_cost(range.rows(), width, hidden, sizeof(T), sizeof(float));
  if (w.post_norm2 != nullptr) {
    matmul_forward(scratch.inner, act_input, w.mlp_out, mutable_rows_of(buffers.branch2, range, width),
                   {.bias = w.mlp_out_bias});
    mark(exec, Operation::mlp_out_product, StepPhase::forward, layer, out_product);
    internal::add_normed_branch(exec, config, w.post_norm2, buffers.branch2, buffers.branch2_rstd, buffers.x_mid,
                                buffers.x_out, dropout.mlp_out(range.begin), range);
    mark(exec, Operation::branch, StepPhase::forward, layer, moved_cost(range.rows() * width, 3 * sizeof(float)));
    return;
  }
  internal::project_onto_residual(scratch.inner, act_input, w.mlp_out, w.mlp_out_bias, buffers.x_mid, buffers.x_out,
                                  dropout.mlp_out(range.begin), range);
  out_product.bytes += moved_cost(range.rows() * width, sizeof(float)).bytes;  // the residual that is added
  mark(exec, Operation::mlp_out_product, StepPhase::forward, layer, out_product);
}

template <class T>
void mlp_backward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                  const BlockGradients<T>& gradients, const BlockDropout& dropout, RowRange range) {
  const ModelConfig& config = weights.config;
  const LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
  const std::int64_t width = config.width;
  const std::int64_t hidden = config.mlp_width;
  const std::int64_t pre_width = config.gated() ? 2 * hidden : hidden;
  const std::int64_t rows = range.rows();
  const NormPartials partials = norm_partials(config);

  internal::for_sum_rows(config, gradients, range, [&](RowRange part, float* sums) {
    internal::branch_backward(exec, config, w.post_norm2, buffers.branch2, buffers.branch2_rstd, gradients.residual,
                              gradients.mlp_out, sums + partials.post_norm2, dropout.mlp_out(part.begin), part);
  });
  mark(exec, Operation::branch, StepPhase::backward, layer, moved_cost(rows * width, 4 + sizeof(T)));

  // A gated unit's two gradients need the whole gradient of its output; others are formed as sums leave the product, and
  // where they will be long out of the caches when the weight gradients want them, the next product reads another copy.
  const bool copies = !config.gated() && gradients.outgrow_caches;
  SplitScratch outer(exec, copies ? static_cast<std::size_t>(rows * hidden) * sizeof(T) : 0);
  SplitScratch scratch(outer.inner,
                       static_cast<std::size_t>(rows * (config.gated() ? std::max(hidden, width) : width)) * sizeof(float));
  const ConstMatrix d_out = rows_of(gradients.mlp_out, range, width);
  T* pre = buffers.mlp_pre + range.begin * pre_width;
  T* kept_d_pre = gradients.mlp_pre + range.begin * pre_width;
  T* d_pre = copies ? reinterpret_cast<T*>(outer.own) : kept_d_pre;
  const RowRange local{0, rows};
  if (config.gated()) {
    auto* d_act = reinterpret_cast<float*>(scratch.own);
    matmul_backward_input(scratch.inner, d_out, w.mlp_out, {d_act, ElementType::f32, rows, hidden, hidden});
    mark(exec, Operation::mlp_out_product, StepPhase::backward, layer,
         product_cost(rows, hidden, width, sizeof(T), sizeof(float)));
    internal::gate_backward(exec, config, d_act, pre, d_pre, pre, rows);
    mark(exec, Operation::activation, StepPhase::backward, layer,
         {0.0, static_cast<double>(rows) *
                   static_cast<double>(4 * hidden + 2 * static_cast<std::int64_t>(sizeof(T)) * pre_width)});
  } else {
    matmul_backward_input(scratch.inner, d_out, w.mlp_out, mutable_rows_of(d_pre, local, hidden),
                          {.activation = config.activation(),
                           .activation_input = pre,
                           .activation_input_stride = hidden,
                           .activation_output = pre,
                           .activation_output_stride = hidden,
                           .kept_output = copies ? kept_d_pre : nullptr});
    mark(exec, Operation::mlp_out_product, StepPhase::backward, layer,
         product_cost(rows, hidden, width, sizeof(T), 3 * sizeof(T)));
  }

  auto* d_norm = reinterpret_cast<float*>(scratch.own);  // a gated unit's gradient is no longer read
  matmul_backward_input(scratch.inner, rows_of(d_pre, local, pre_width), w.mlp_in.whole(),
                        {d_norm, ElementType::f32, rows, width, width});
  mark(exec, Operation::mlp_in_product, StepPhase::backward, layer,
       product_cost(rows, width, pre_width, sizeof(T), sizeof(float)));
  internal::for_sum_rows(config, gradients, range, [&](RowRange part, float* sums) {
    internal::norm_backward(exec, config, w.norm2, d_norm + (part.begin - range.begin) * width, buffers.x_mid,
                            buffers.norm2_mean, buffers.norm2_rstd, gradients.residual, sums + partials.norm2,
                            config.norm_bias ? sums + partials.norm2_bias : nullptr, part);
  });
  mark(exec, Operation::norm, StepPhase::backward, layer, moved_cost(rows * width, 4 * sizeof(float)));
}

#define QUERN_INSTANTIATE(T)                                                                                                \
  template void mlp_forward<T>(Exec&, const ModelWeights&, std::int64_t, const BlockBuffers<T>&, const BlockDropout&,       \
                               RowRange);                                                                                   \
  template void mlp_backward<T>(Exec&, const ModelWeights&, std::int64_t, const BlockBuffers<T>&, const BlockGradients<T>&, \
                                const BlockDropout&, RowRange);
QUERN_INSTANTIATE(float)
QUERN_INSTANTIATE(bf16)
#undef QUERN_INSTANTIATE

}  // namespace quern
