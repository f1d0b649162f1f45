// Final norm, output projection and cross-entropy in one: the whole [rows, vocab] logits never exist.
#pragma once

#include <cstdint>

#include "math/exec.hpp"
#include "model/layers.hpp"
#include "model/weights.hpp"

namespace quern {

/// How the head walks the rows; fixed by shapes alone.
struct HeadTiling {
  std::int64_t block_rows = 0;  ///< rows whose logit gradients exist at once (for the head's weight gradient)
  std::int64_t chunk_rows = 0;  ///< rows that one thread takes through loss and back; of their f32 logits a strip exists
};
[[nodiscard]] HeadTiling head_tiling(const ModelConfig& config, std::int64_t rows);

/// Buffers of the head for a micro-batch of `rows` rows.
template <class T>
struct HeadBuffers {
  T* norm_out = nullptr;           ///< [rows, width]
  float* norm_mean = nullptr;      ///< [rows], layer_norm only
  float* norm_rstd = nullptr;      ///< [rows]
  float* loss = nullptr;           ///< [rows] cross-entropy of each row in nats, 0 where masked
  T* d_logits = nullptr;           ///< [block_rows, vocab]; training only
  float* norm_partials = nullptr;  ///< [ceil(rows / chunk_rows), 2 width]: weight then bias sums; training only
};

/// Scratch bytes per thread of head_loss.
[[nodiscard]] std::size_t head_scratch_bytes(const Backend& backend, const ModelConfig& config, std::int64_t rows);

/// Fills buffers.loss from the residual stream x [rows, width]. row_weight [rows]: 0 masks a row. SPMD.
template <class T>
void head_loss(Exec& exec, const ModelWeights& weights, const float* x, const std::int32_t* targets, const float* row_weight,
               std::int64_t rows, const HeadBuffers<T>& buffers);

/// head_loss, and the gradients of sum(loss * row_weight) * gradient_scale: residual_gradient [rows, width] (overwritten)
/// and, in `block` (f32, layout's order), the head (+= when accumulate), final norm weight and bias (+= when accumulate).
/// `scaled_weight` [rows] = row_weight * gradient_scale. SPMD.
template <class T>
void head_loss_backward(Exec& exec, const ModelWeights& weights, const ParameterLayout& layout, const float* x,
                        const std::int32_t* targets, const float* scaled_weight, std::int64_t rows,
                        const HeadBuffers<T>& buffers, float* residual_gradient, bool accumulate, float* block);

/// logits f32 [rows, vocab] (soft cap applied) of residual rows x [rows, width]; norm_out T [rows, width] is working memory.
/// SPMD over the whole team.
template <class T>
void head_logits(Exec& exec, const ModelWeights& weights, const float* x, T* norm_out, float* logits, std::int64_t rows);

}  // namespace quern
