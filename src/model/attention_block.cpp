// The attention half of a block: everything around attention itself, which is in math/attention.hpp.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "math/matmul.hpp"
#include "model/layers.hpp"
#include "model/layers_internal.hpp"

namespace quern {

using internal::as_float;
using internal::kernels_for;
using internal::mutable_rows_of;
using internal::offset_or_null;
using internal::rows_of;
using internal::split_rows;
using internal::SplitScratch;

template <class T>
void attention_input_forward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                             const std::int32_t* positions, RowRange range, const RowsReady& ready) {
  const ModelConfig& config = weights.config;
  const LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
  SplitScratch scratch(exec,
                       exec.member.count() > 1
                           ? static_cast<std::size_t>(std::min(range.rows(), internal::kOwnRows) * config.width) * sizeof(T)
                           : 0);
  const ConstMatrix input =
      internal::normed_rows(exec, config, w.norm1, w.norm1_bias, buffers.x_in, buffers.norm1_out, buffers.norm1_mean,
                            buffers.norm1_rstd, range, reinterpret_cast<T*>(scratch.own));
  mark(exec, Operation::norm, StepPhase::forward, layer, moved_cost(range.rows() * config.width, 4 + sizeof(T)));
  const std::int64_t qkv_width = config.qkv_width();
  internal::stacked_forward(scratch.inner, input, w.qkv, mutable_rows_of(buffers.qkv, range, qkv_width), w.qkv_bias);
  mark(exec, Operation::qkv_product, StepPhase::forward, layer,
       product_cost(range.rows(), qkv_width, config.width, sizeof(T), sizeof(T)));

  if (!config.qk_norm && config.position != PositionKind::rope && ready.call == nullptr) return;
  const ElementwiseKernelsFor<T>& kernels = kernels_for<T>(exec);
  const std::int64_t head_dim = config.head_dim;
  const std::int64_t rotated_heads = config.heads + config.kv_heads;  // a row holds q heads, then k heads, then v heads
  split_rows(exec, range, [&](RowRange rows) {
    if (config.qk_norm) {
      for (std::int64_t row = rows.begin; row < rows.end; ++row) {
        T* qk = buffers.qkv + row * qkv_width;
        const T* raw = qk;
        if (buffers.qk_raw != nullptr) {
          T* kept = buffers.qk_raw + row * rotated_heads * head_dim;
          std::memcpy(kept, qk, static_cast<std::size_t>(rotated_heads * head_dim) * sizeof(T));
          raw = kept;
        }
        float* rstd = offset_or_null(buffers.qk_rstd, row * rotated_heads);
        kernels.head_norm_forward(raw, head_dim, w.q_norm, config.norm_eps, qk, head_dim, rstd, config.heads, head_dim);
        kernels.head_norm_forward(raw + config.query_width(), head_dim, w.k_norm, config.norm_eps, qk + config.query_width(),
                                  head_dim, offset_or_null(rstd, config.heads), config.kv_heads, head_dim);
      }
    }
    if (config.position == PositionKind::rope) {
      kernels.rope(buffers.qkv + rows.begin * qkv_width, qkv_width, head_dim, rows.rows(), rotated_heads, config.rotated(),
                   config.rope_pairing, weights.rope_of(layer), positions + rows.begin, false);
    }
    if (ready.call != nullptr) ready.call(ready.context, rows);
  });
  mark(exec, Operation::qk_norm_rope, StepPhase::forward, layer,
       moved_cost(range.rows() * rotated_heads * head_dim, 2 * sizeof(T)));
}

template <class T>
void attention_output_forward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                              const BlockDropout& dropout, RowRange range) {
  const ModelConfig& config = weights.config;
  const LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
  OperationCost product = product_cost(range.rows(), config.width, config.query_width(), sizeof(T), sizeof(float));
  if (w.post_norm1 != nullptr) {
    matmul_forward(exec, rows_of(buffers.attention, range, config.query_width()), w.attention_out,
                   mutable_rows_of(buffers.branch1, range, config.width), {.bias = w.attention_out_bias});
    mark(exec, Operation::attention_out_product, StepPhase::forward, layer, product);
    internal::add_normed_branch(exec, config, w.post_norm1, buffers.branch1, buffers.branch1_rstd, buffers.x_in,
                                buffers.x_mid, dropout.attention_out(range.begin), range);
    mark(exec, Operation::branch, StepPhase::forward, layer, moved_cost(range.rows() * config.width, 12));
    return;
  }
  internal::project_onto_residual(exec, rows_of(buffers.attention, range, config.query_width()), w.attention_out,
                                  w.attention_out_bias, buffers.x_in, buffers.x_mid, dropout.attention_out(range.begin),
                                  range);
  product.bytes += moved_cost(range.rows() * config.width, sizeof(float)).bytes;  // the residual that is added
  mark(exec, Operation::attention_out_product, StepPhase::forward, layer, product);
}

namespace {

/// A sink takes the probability P = exp(sink - lse) and adds nothing, so with D = dO . O, the mean of dO . v under the
/// probabilities, its logit's gradient is P (0 - D), summed over rows: sums [heads] is overwritten, in row order.
template <class T>
void sink_backward(const ModelConfig& config, const float* sinks, const float* lse, const T* out, const T* dout,
                   RowRange range, float* sums) {
  for (std::int64_t head = 0; head < config.heads; ++head) {
    double sum = 0.0;
    for (std::int64_t row = range.begin; row < range.end; ++row) {
      const std::int64_t start = row * config.query_width() + head * config.head_dim;
      float d = 0.0F;
      for (std::int64_t i = 0; i < config.head_dim; ++i) d += as_float(out[start + i]) * as_float(dout[start + i]);
      sum -= std::exp(static_cast<double>(sinks[head] - lse[row * config.heads + head])) * static_cast<double>(d);
    }
    sums[head] = static_cast<float>(sum);
  }
}

}  // namespace

template <class T>
void attention_output_backward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                               const BlockGradients<T>& gradients, const BlockDropout& dropout, RowRange range) {
  const ModelConfig& config = weights.config;
  const LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
  const NormPartials partials = norm_partials(config);
  internal::for_sum_rows(config, gradients, range, [&](RowRange part, float* sums) {
    internal::branch_backward(exec, config, w.post_norm1, buffers.branch1, buffers.branch1_rstd, gradients.residual,
                              gradients.attention_out, sums + partials.post_norm1, dropout.attention_out(part.begin), part);
  });
  mark(exec, Operation::branch, StepPhase::backward, layer, moved_cost(range.rows() * config.width, 4 + sizeof(T)));
  matmul_backward_input(exec, rows_of(gradients.attention_out, range, config.width), w.attention_out,
                        mutable_rows_of(gradients.attention, range, config.query_width()));
  mark(exec, Operation::attention_out_product, StepPhase::backward, layer,
       product_cost(range.rows(), config.query_width(), config.width, sizeof(T), sizeof(T)));
  if (w.sinks != nullptr) {
    internal::for_sum_rows(config, gradients, range, [&](RowRange part, float* sums) {
      sink_backward(config, w.sinks, buffers.lse, buffers.attention, gradients.attention, part, sums + partials.sinks);
    });
    mark(exec, Operation::attention, StepPhase::backward, layer,
         moved_cost(range.rows() * config.query_width(), 2 * sizeof(T)));
  }
}

template <class T>
void attention_input_backward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                              const BlockGradients<T>& gradients, const std::int32_t* positions, RowRange range) {
  const ModelConfig& config = weights.config;
  const LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
  const ElementwiseKernelsFor<T>& kernels = kernels_for<T>(exec);
  const std::int64_t head_dim = config.head_dim;
  const std::int64_t qkv_width = config.qkv_width();
  const std::int64_t rotated_heads = config.heads + config.kv_heads;
  const NormPartials partials = norm_partials(config);

  if (config.position == PositionKind::rope) {
    kernels.rope(gradients.qkv + range.begin * qkv_width, qkv_width, head_dim, range.rows(), rotated_heads, config.rotated(),
                 config.rope_pairing, weights.rope_of(layer), positions + range.begin, true);
  }
  if (config.qk_norm) {
    internal::for_sum_rows(config, gradients, range, [&](RowRange part, float* sums) {
      std::fill_n(sums + partials.q_norm, head_dim, 0.0F);
      std::fill_n(sums + partials.k_norm, head_dim, 0.0F);
      for (std::int64_t row = part.begin; row < part.end; ++row) {
        T* dq = gradients.qkv + row * qkv_width;
        T* dk = dq + config.query_width();
        const T* raw = buffers.qk_raw + row * rotated_heads * head_dim;
        const float* rstd = buffers.qk_rstd + row * rotated_heads;
        kernels.head_norm_backward(dq, head_dim, raw, head_dim, w.q_norm, rstd, dq, head_dim, sums + partials.q_norm,
                                   config.heads, head_dim);
        kernels.head_norm_backward(dk, head_dim, raw + config.query_width(), head_dim, w.k_norm, rstd + config.heads, dk,
                                   head_dim, sums + partials.k_norm, config.kv_heads, head_dim);
      }
    });
  }

  if (config.qk_norm || config.position == PositionKind::rope) {
    mark(exec, Operation::qk_norm_rope, StepPhase::backward, layer,
         moved_cost(range.rows() * rotated_heads * head_dim, 2 * sizeof(T)));
  }

  SplitScratch scratch(exec, static_cast<std::size_t>(range.rows() * config.width) * sizeof(float));
  auto* d_norm = reinterpret_cast<float*>(scratch.own);
  matmul_backward_input(scratch.inner, rows_of(gradients.qkv, range, qkv_width), w.qkv.whole(),
                        {d_norm, ElementType::f32, range.rows(), config.width, config.width});
  mark(exec, Operation::qkv_product, StepPhase::backward, layer,
       product_cost(range.rows(), config.width, qkv_width, sizeof(T), sizeof(float)));
  internal::for_sum_rows(config, gradients, range, [&](RowRange part, float* sums) {
    internal::norm_backward(exec, config, w.norm1, d_norm + (part.begin - range.begin) * config.width, buffers.x_in,
                            buffers.norm1_mean, buffers.norm1_rstd, gradients.residual, sums + partials.norm1,
                            config.norm_bias ? sums + partials.norm1_bias : nullptr, part);
  });
  mark(exec, Operation::norm, StepPhase::backward, layer, moved_cost(range.rows() * config.width, 4 * sizeof(float)));
}

#define QUERN_INSTANTIATE(T)                                                                                   \
  template void attention_input_forward<T>(Exec&, const ModelWeights&, std::int64_t, const BlockBuffers<T>&,   \
                                           const std::int32_t*, RowRange, const RowsReady&);                   \
  template void attention_output_forward<T>(Exec&, const ModelWeights&, std::int64_t, const BlockBuffers<T>&,  \
                                            const BlockDropout&, RowRange);                                    \
  template void attention_output_backward<T>(Exec&, const ModelWeights&, std::int64_t, const BlockBuffers<T>&, \
                                             const BlockGradients<T>&, const BlockDropout&, RowRange);         \
  template void attention_input_backward<T>(Exec&, const ModelWeights&, std::int64_t, const BlockBuffers<T>&,  \
                                            const BlockGradients<T>&, const std::int32_t*, RowRange);
QUERN_INSTANTIATE(float)
QUERN_INSTANTIATE(bf16)
#undef QUERN_INSTANTIATE

}  // namespace quern
