#include "model/embedding.hpp"

#include <algorithm>

#include "math/matmul.hpp"

namespace quern {

namespace {
/// Columns per task of the backward pass: a cache line times four, so that tasks never share a line.
constexpr std::int64_t kColumnsPerTask = 64;
constexpr std::int64_t kRowsPerTask = 256;
}  // namespace

std::uint32_t embedding_dropout_site(const ModelConfig& config) { return static_cast<std::uint32_t>(config.layers) * 4; }

void embedding_forward(const Exec& exec, const ModelWeights& weights, const std::int32_t* tokens,
                       const std::int32_t* positions, float* x, DropoutMask mask, RowRange range) {
  const std::int64_t width = weights.config.width;
  mask.site = embedding_dropout_site(weights.config);
  mask.first_row = static_cast<std::uint32_t>(range.begin);
  if (weights.token_embedding == nullptr) {
    for (std::int64_t row = range.begin; row < range.end; ++row) {
      float* out = x + row * width;
      decode_row(exec.backend, weights.embedding_table, tokens[row], out);
      const float* position = weights.position_embedding;
      if (position != nullptr) position += positions[row] * width;
      for (std::int64_t i = 0; i < width; ++i) {
        out[i] = weights.config.embedding_scale * out[i] + (position == nullptr ? 0.0F : position[i]);
      }
    }
    return;
  }
  exec.backend.kernels->elementwise->embedding_forward(
      weights.token_embedding, tokens + range.begin, weights.position_embedding, positions + range.begin,
      weights.config.embedding_scale, x + range.begin * width, width, range.rows(), width, mask);
  mark(exec, Operation::embedding, StepPhase::forward, -1, moved_cost(range.rows() * width, 2 * sizeof(float)));
}

void embedding_backward(Exec& exec, const ModelConfig& config, const std::int32_t* tokens, const std::int32_t* positions,
                        float* x_gradient, DropoutMask mask, std::int64_t rows, float* d_tokens, float* d_positions) {
  const std::int64_t width = config.width;
  mask.site = embedding_dropout_site(config);
  if (mask.probability > 0.0F) {
    exec.member.for_each((rows + kRowsPerTask - 1) / kRowsPerTask, [&](std::int64_t task) {
      const std::int64_t begin = task * kRowsPerTask;
      DropoutMask piece = mask;
      piece.first_row = static_cast<std::uint32_t>(begin);
      float* x = x_gradient + begin * width;
      exec.backend.kernels->elementwise->dropout_add(x, width, nullptr, 0, x, width, std::min(kRowsPerTask, rows - begin),
                                                     width, piece);
    });
  }
  // Each task owns some columns of the tables and walks all rows in order: no sums cross threads, and the order is fixed.
  exec.member.for_each((width + kColumnsPerTask - 1) / kColumnsPerTask, [&](std::int64_t task) {
    const std::int64_t begin = task * kColumnsPerTask;
    const std::int64_t columns = std::min(kColumnsPerTask, width - begin);
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* gradient = x_gradient + row * width + begin;
      float* token = d_tokens + tokens[row] * width + begin;
      for (std::int64_t c = 0; c < columns; ++c) token[c] += config.embedding_scale * gradient[c];
      if (d_positions == nullptr) continue;
      float* position = d_positions + positions[row] * width + begin;
      for (std::int64_t c = 0; c < columns; ++c) position[c] += gradient[c];
    }
  });
  const std::int64_t tables = d_positions == nullptr ? 1 : 2;
  mark(exec, Operation::embedding, StepPhase::weight_gradient, -1,
       moved_cost(rows * width * (1 + 2 * tables), sizeof(float)));
}

}  // namespace quern
