// The backward pass of the feed-forward part with experts.
//
// Per row, with the chosen logits z_k, p = softmax(z), y_k = expert k's output and d the gradient of sum_k p_k y_k:
//   dy_k = p_k d;   dp_k = d . y_k;   dz_k = p_k sum_j p_j (dp_k - dp_j)
// The outputs y_k are not kept. With W, b an expert's output matrix and bias and a its activations, y = W a + b, so
// dp = (W^T d) . a + d . b; and W^T d, scaled by p, is the activations' gradient that is needed anyhow.
#include <algorithm>
#include <cstring>

#include "math/matmul.hpp"
#include "model/layers.hpp"
#include "model/layers_internal.hpp"

namespace quern {

using internal::as_float;
using internal::kernels_for;
using internal::mutable_rows_of;
using internal::rows_of;
using internal::SplitScratch;

namespace {

/// What the steps below share.
template <class T>
struct Backward {
  const ModelConfig& config;
  const LayerWeights& w;
  const BlockBuffers<T>& buffers;
  const BlockGradients<T>& gradients;
  const ExpertBuffers<T>& kept;
  const ExpertGradients<T>& d;
  NormPartials partials;

  /// Fills d.branch of the rows, and d.output and kept.input of their slots.
  void scatter(Exec& exec, const BlockDropout& dropout, RowRange range) const {
    const std::int64_t width = config.width;
    internal::for_sum_rows(config, gradients, range, [&](RowRange part, float* sums) {
      internal::branch_backward(exec, config, w.post_norm2, buffers.branch2, buffers.branch2_rstd, gradients.residual,
                                d.branch, sums + partials.post_norm2, dropout.mlp_out(part.begin), part);
    });
    for (std::int64_t i = range.begin * config.experts_used; i < range.end * config.experts_used; ++i) {
      const std::int64_t row = i / config.experts_used;
      kernels_for<T>(exec).from_f32(d.branch + row * width, width, d.output + kept.slot[i] * width, width, 1, width);
      std::memcpy(kept.input + kept.slot[i] * width, buffers.norm2_out + row * width,
                  static_cast<std::size_t>(width) * sizeof(T));
    }
  }

  /// Turns d.act from W^T d into the activations' gradients, goes on to d.pre, scales d.output by the expert's weight and
  /// fills d.router_logits.
  void through_weights(Exec& exec, RowRange range) const {
    const std::int64_t width = config.width;
    const std::int64_t hidden = config.mlp_width;
    const std::int64_t used = config.experts_used;
    auto* scaled = reinterpret_cast<float*>(exec.scratch.data());
    auto* d_logits = scaled + width;
    auto* d_weight = d_logits + config.experts;
    for (std::int64_t row = range.begin; row < range.end; ++row) {
      const float* d_row = d.branch + row * width;
      for (std::int64_t k = 0; k < used; ++k) {
        const std::int64_t slot = kept.slot[row * used + k];
        const float weight = kept.chosen_weight[row * used + k];
        float* d_act = d.act + slot * hidden;
        const T* act = kept.act + slot * hidden;
        double dot = 0.0;
        for (std::int64_t i = 0; i < hidden; ++i) {
          dot += static_cast<double>(d_act[i]) * static_cast<double>(as_float(act[i]));
        }
        if (w.expert_out_bias != nullptr) {
          const float* bias = w.expert_out_bias + kept.chosen[row * used + k] * width;
          for (std::int64_t i = 0; i < width; ++i) dot += static_cast<double>(d_row[i]) * static_cast<double>(bias[i]);
        }
        d_weight[k] = static_cast<float>(dot);
        for (std::int64_t i = 0; i < hidden; ++i) d_act[i] *= weight;
        internal::gate_backward(exec, config, d_act, kept.pre + slot * 2 * hidden, d.pre + slot * 2 * hidden,
                                static_cast<T*>(nullptr), 1);
        for (std::int64_t i = 0; i < width; ++i) scaled[i] = weight * d_row[i];
        kernels_for<T>(exec).from_f32(scaled, width, d.output + slot * width, width, 1, width);
      }
      std::fill_n(d_logits, config.experts, 0.0F);
      const float* p = kept.chosen_weight + row * used;
      for (std::int64_t k = 0; k < used; ++k) {
        double sum = 0.0;
        for (std::int64_t j = 0; j < used; ++j) {
          sum += static_cast<double>(p[j]) * (static_cast<double>(d_weight[k]) - static_cast<double>(d_weight[j]));
        }
        d_logits[kept.chosen[row * used + k]] = static_cast<float>(static_cast<double>(p[k]) * sum);
      }
      kernels_for<T>(exec).from_f32(d_logits, config.experts, d.router_logits + row * config.experts, config.experts, 1,
                                    config.experts);
    }
  }

  /// Adds up what the router and a row's experts, in the order of the choices, give back to norm2's output, and goes on
  /// through the norm.
  void gather(Exec& exec, RowRange range) const {
    const std::int64_t width = config.width;
    const ElementwiseKernels& kernels = *exec.backend.kernels->elementwise;
    SplitScratch scratch(exec, static_cast<std::size_t>(range.rows() * width) * sizeof(float));
    auto* d_norm = reinterpret_cast<float*>(scratch.own);
    matmul_backward_input(scratch.inner, rows_of(d.router_logits, range, config.experts), w.router,
                          {d_norm, ElementType::f32, range.rows(), width, width});
    for (std::int64_t i = range.begin * config.experts_used; i < range.end * config.experts_used; ++i) {
      kernels.add(d.input + kept.slot[i] * width, d_norm + (i / config.experts_used - range.begin) * width, width);
    }
    internal::for_sum_rows(config, gradients, range, [&](RowRange part, float* sums) {
      internal::norm_backward(exec, config, w.norm2, d_norm + (part.begin - range.begin) * width, buffers.x_mid,
                              buffers.norm2_mean, buffers.norm2_rstd, gradients.residual, sums + partials.norm2,
                              config.norm_bias ? sums + partials.norm2_bias : nullptr, part);
    });
  }
};

/// dW (+)= dy^T x of one expert's slots; zeros where it has none and nothing is to be added to.
template <class T>
void slice_gradient(Exec& exec, const T* dy, std::int64_t outputs, const T* x, std::int64_t inputs, RowRange slots,
                    std::int64_t expert, bool accumulate, float* dw, float* dbias) {
  float* weight = dw + expert * outputs * inputs;
  float* bias = internal::offset_or_null(dbias, expert * outputs);
  if (slots.rows() > 0) {
    matmul_backward_weight(exec, rows_of(dy, slots, outputs), rows_of(x, slots, inputs), weight, bias, accumulate);
    return;
  }
  if (accumulate) return;
  exec.member.for_each(outputs, [&](std::int64_t row) {
    std::fill_n(weight + row * inputs, inputs, 0.0F);
    if (bias != nullptr) bias[row] = 0.0F;
  });
}

}  // namespace

template <class T>
void experts_backward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                      const BlockGradients<T>& gradients, const BlockDropout& dropout, std::int64_t rows,
                      std::int64_t chunk_rows) {
  const ModelConfig& config = weights.config;
  const LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
  const Backward<T> backward{config, w, buffers, gradients, *buffers.experts, *gradients.experts, norm_partials(config)};
  const ExpertBuffers<T>& kept = *buffers.experts;
  const ExpertGradients<T>& d = *gradients.experts;
  const std::int64_t width = config.width;
  const std::int64_t hidden = config.mlp_width;
  const auto for_chunks = [&](auto&& work) {
    exec.member.for_each((rows + chunk_rows - 1) / chunk_rows, [&](std::int64_t chunk) {
      TeamMember alone = exec.member.alone();
      Exec serial{alone, exec.backend, exec.scratch};
      work(serial, RowRange{chunk * chunk_rows, std::min((chunk + 1) * chunk_rows, rows)});
    });
  };
  const auto for_experts = [&](auto&& work) {
    for (std::int64_t e = 0; e < config.experts; ++e) {
      const RowRange slots{kept.first_slot[e], kept.first_slot[e + 1]};
      if (slots.rows() > 0) work(e, slots);
    }
  };

  for_chunks([&](Exec& serial, RowRange range) { backward.scatter(serial, dropout, range); });
  for_experts([&](std::int64_t e, RowRange slots) {
    matmul_backward_input(exec, rows_of(d.output, slots, width),
                          expert_slice(w.expert_out, config.experts, e, w.expert_out_pack),
                          mutable_rows_of(d.act, slots, hidden));
  });
  for_chunks([&](Exec& serial, RowRange range) { backward.through_weights(serial, range); });
  for_experts([&](std::int64_t e, RowRange slots) {
    matmul_backward_input(exec, rows_of(d.pre, slots, 2 * hidden),
                          expert_slice(w.expert_in.whole(), config.experts, e, w.expert_in_pack),
                          mutable_rows_of(d.input, slots, width));
  });
  for_chunks([&](Exec& serial, RowRange range) { backward.gather(serial, range); });
  const auto slots = static_cast<double>(rows * config.experts_used);
  mark(exec, Operation::experts, StepPhase::backward, layer, {6.0 * slots * static_cast<double>(width * hidden), 0.0});
}

template <class T>
void internal::expert_weight_gradients(Exec& exec, const ModelConfig& config, const BlockBuffers<T>& buffers,
                                       const BlockGradients<T>& gradients, std::int64_t rows, bool accumulate,
                                       const ExpertWeightGradients& to) {
  const ExpertBuffers<T>& kept = *buffers.experts;
  const ExpertGradients<T>& d = *gradients.experts;
  const std::int64_t width = config.width;
  const std::int64_t hidden = config.mlp_width;
  matmul_backward_weight(exec, rows_of(d.router_logits, {0, rows}, config.experts),
                         rows_of(buffers.norm2_out, {0, rows}, width), to.router, to.router_bias, accumulate);
  for (std::int64_t e = 0; e < config.experts; ++e) {
    const RowRange slots{kept.first_slot[e], kept.first_slot[e + 1]};
    slice_gradient(exec, d.pre, 2 * hidden, kept.input, width, slots, e, accumulate, to.in, to.in_bias);
    slice_gradient(exec, d.output, width, kept.act, hidden, slots, e, accumulate, to.out, to.out_bias);
  }
}

#define QUERN_INSTANTIATE(T)                                                                                    \
  template void experts_backward<T>(Exec&, const ModelWeights&, std::int64_t, const BlockBuffers<T>&,           \
                                    const BlockGradients<T>&, const BlockDropout&, std::int64_t, std::int64_t); \
  template void internal::expert_weight_gradients<T>(Exec&, const ModelConfig&, const BlockBuffers<T>&,         \
                                                     const BlockGradients<T>&, std::int64_t, bool,              \
                                                     const ExpertWeightGradients&);
QUERN_INSTANTIATE(float)
QUERN_INSTANTIATE(bf16)
#undef QUERN_INSTANTIATE

}  // namespace quern
