// The whole model and its training step in double precision, in plain loops: what the real one is measured against.
//
// Written from the documentation of ModelConfig alone; it shares no arithmetic with src/. Clear before fast: activations
// are kept in full, attention forms its scores one query at a time, and the backward pass follows the forward line by line.
//
//   x = embedding_scale * E[token] + P[position]
//   for each layer:  x += post1(W_out attention(norm1(x))) ;  x += post2(mlp(norm2(x)))     (post norms where the model has
//   them) logits = soft_cap(H norm(x))          (H = E where embeddings are tied) loss = sum(weight * cross_entropy) /
//   sum(weight), over every micro-batch of the optimizer step
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/model_config.hpp"

namespace quern {

/// Rows first_row .. first_row + rows - 1 of a batch are one sequence; attention never leaves it.
struct ReferenceSpan {
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
};

/// One micro-batch: a row per token. Vectors have equal lengths; spans cover every row once.
struct ReferenceBatch {
  std::vector<std::int32_t> inputs;
  std::vector<std::int32_t> targets;    ///< not read where the weight is 0
  std::vector<double> weights;          ///< 0: masked, 1: counted
  std::vector<std::int32_t> positions;  ///< for learned tables and RoPE; restart in each span
  std::vector<ReferenceSpan> spans;
};

/// `spans` sequences of `length` tokens each, random inputs and targets, weights 1, positions from 0 in each span.
[[nodiscard]] ReferenceBatch random_reference_batch(const ModelConfig& config, std::int64_t spans, std::int64_t length,
                                                    std::uint64_t seed);

/// Logits [rows, vocab] after the final soft cap, dropout off. `parameters` is a block in `layout`'s offsets.
[[nodiscard]] std::vector<double> reference_logits(const ModelConfig& config, const ParameterLayout& layout,
                                                   std::span<const double> parameters, const ReferenceBatch& batch);

/// By how much the least of the chosen experts' logits is above the largest of the others, at the closest; infinity where
/// nothing is chosen. Arithmetic with errors of that size may choose otherwise.
[[nodiscard]] double reference_router_margin(const ModelConfig& config, const ParameterLayout& layout,
                                             std::span<const double> parameters, const ReferenceBatch& batch);

/// Loss of one optimizer step over its micro-batches; 0 where every weight is 0.
[[nodiscard]] double reference_loss(const ModelConfig& config, const ParameterLayout& layout,
                                    std::span<const double> parameters, std::span<const ReferenceBatch> batches);

/// The same, and its gradient: `gradients` (layout.elements) is overwritten; padding between tensors is 0.
double reference_loss_and_gradients(const ModelConfig& config, const ParameterLayout& layout,
                                    std::span<const double> parameters, std::span<const ReferenceBatch> batches,
                                    std::span<double> gradients);

/// Settings of AdamW (Loshchilov & Hutter 2019) with global-norm clipping.
struct ReferenceAdamW {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.99;
  double eps = 1e-8;
  double weight_decay = 0.1;  ///< decoupled; only of parameters that decay
  double clip_norm = 0.0;     ///< gradients are scaled to this norm when theirs is larger; 0: never
};

/// Moments, in the layout's offsets; empty means zero.
struct ReferenceAdamWState {
  std::int64_t step = 0;  ///< steps done
  std::vector<double> m, v;
};

/// One optimizer step in place; returns the gradients' global norm before clipping.
double reference_adamw_step(const ReferenceAdamW& settings, const ParameterLayout& layout, std::span<const double> gradients,
                            ReferenceAdamWState& state, std::span<double> parameters);

}  // namespace quern
