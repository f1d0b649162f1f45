// Token (and position) embedding: forward and backward.
#pragma once

#include <cstdint>

#include "math/exec.hpp"
#include "model/layers.hpp"
#include "model/weights.hpp"

namespace quern {

/// Dropout site of the embedding: past every block's sites.
[[nodiscard]] std::uint32_t embedding_dropout_site(const ModelConfig& config);

/// x[row] = embedding_scale * E[tokens[row]] (+ P[positions[row]]), then dropout (mask.first_row and site are set here).
/// x f32 [rows, width]. Serial; `range` of rows.
void embedding_forward(const Exec& exec, const ModelWeights& weights, const std::int32_t* tokens,
                       const std::int32_t* positions, float* x, DropoutMask mask, RowRange range);

/// Adds the gradients of x [rows, width] to those of the tables, in row order. `x_gradient` is overwritten (dropout is
/// undone in place). d_tokens [vocab, width]; d_positions [context, width] (nullable). SPMD over columns.
void embedding_backward(Exec& exec, const ModelConfig& config, const std::int32_t* tokens, const std::int32_t* positions,
                        float* x_gradient, DropoutMask mask, std::int64_t rows, float* d_tokens, float* d_positions);

}  // namespace quern
