#include "model/output_head.hpp"

#include <algorithm>
#include <cmath>

#include "math/matmul.hpp"
#include "model/layers_internal.hpp"

namespace quern {

using internal::element_type_of;
using internal::kernels_for;
using internal::rows_of;
using internal::SplitScratch;

namespace {
/// Bytes of f32 logits that one thread works on: about half of a 2 MiB L2, so that the softmax finds them in cache.
/// Re-measure with bench/model/output_head_bench.
constexpr std::int64_t kChunkBytes = std::int64_t{1} << 20;
/// A packed head of more bytes comes from memory for every chunk, in both directions, so chunks are then longer than that.
constexpr std::int64_t kLargePackBytes = std::int64_t{32} << 20;
/// Bytes of logit gradients kept for the head's weight gradient. The weight gradient is read and written once per block, so
/// blocks of fewer than about a thousand rows would make that traffic dominate.
constexpr std::int64_t kBlockBytes = std::int64_t{48} << 20;
constexpr std::int64_t kMinBlockRows = 512;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/// Norm and logits of rows `range` into `logits` (f32 [range.rows, vocab], contiguous).
template <class T>
void chunk_logits(Exec& exec, const ModelWeights& weights, const float* x, const HeadBuffers<T>& buffers, float* logits,
                  RowRange range) {
  const ModelConfig& config = weights.config;
  internal::norm_forward(exec, config, weights.final_norm, weights.final_norm_bias, x, buffers.norm_out, buffers.norm_mean,
                         buffers.norm_rstd, range);
  mark(exec, Operation::norm, StepPhase::forward, -1, moved_cost(range.rows() * config.width, 4 + sizeof(T)));
  matmul_forward(exec, rows_of(buffers.norm_out, range, config.width), weights.head,
                 {logits, ElementType::f32, range.rows(), config.vocab, config.vocab});
  mark(exec, Operation::head_product, StepPhase::forward, -1,
       product_cost(range.rows(), config.vocab, config.width, sizeof(T), sizeof(float)));
}
}  // namespace

HeadTiling head_tiling(const ModelConfig& config, std::int64_t rows) {
  HeadTiling tiling;
  const std::int64_t least = config.vocab * config.width * 2 > kLargePackBytes ? 128 : 32;
  tiling.chunk_rows = std::clamp<std::int64_t>(kChunkBytes / (config.vocab * 4) / 32 * 32, least, 128);
  const std::int64_t budget_rows = std::max(kMinBlockRows, kBlockBytes / (config.vocab * 4));
  tiling.block_rows = std::min(round_up(rows, tiling.chunk_rows), budget_rows / tiling.chunk_rows * tiling.chunk_rows);
  return tiling;
}

std::size_t head_scratch_bytes(const Backend& backend, const ModelConfig& config, std::int64_t rows) {
  const HeadTiling tiling = head_tiling(config, rows);
  const auto own = static_cast<std::size_t>(tiling.chunk_rows * std::max(config.vocab, config.width)) * sizeof(float);
  return SplitScratch::aligned(own) + matmul_scratch_bytes(backend, tiling.block_rows, std::max(config.vocab, config.width));
}

template <class T>
void head_loss(Exec& exec, const ModelWeights& weights, const float* x, const std::int32_t* targets, const float* row_weight,
               std::int64_t rows, const HeadBuffers<T>& buffers) {
  const ModelConfig& config = weights.config;
  const std::int64_t chunk_rows = head_tiling(config, rows).chunk_rows;
  exec.member.for_each((rows + chunk_rows - 1) / chunk_rows, [&](std::int64_t chunk) {
    const RowRange range{chunk * chunk_rows, std::min((chunk + 1) * chunk_rows, rows)};
    TeamMember alone = exec.member.alone();
    Exec serial{alone, exec.backend, exec.scratch};
    SplitScratch scratch(serial, static_cast<std::size_t>(chunk_rows * config.vocab) * sizeof(float));
    auto* logits = reinterpret_cast<float*>(scratch.own);
    chunk_logits(scratch.inner, weights, x, buffers, logits, range);
    kernels_for<T>(exec).cross_entropy(logits, config.vocab, targets + range.begin, row_weight + range.begin,
                                       config.final_soft_cap, buffers.loss + range.begin, nullptr, 0, range.rows(),
                                       config.vocab);
    mark(serial, Operation::loss, StepPhase::forward, -1, moved_cost(range.rows() * config.vocab, sizeof(float)));
  });
}

template <class T>
void head_loss_backward(Exec& exec, const ModelWeights& weights, const ParameterLayout& layout, const float* x,
                        const std::int32_t* targets, const float* scaled_weight, std::int64_t rows,
                        const HeadBuffers<T>& buffers, float* residual_gradient, bool accumulate, float* block) {
  const ModelConfig& config = weights.config;
  const std::int64_t width = config.width;
  const std::int64_t vocab = config.vocab;
  const HeadTiling tiling = head_tiling(config, rows);
  const auto target = [&](int index) {
    return index < 0 ? nullptr : block + layout.parameters[static_cast<std::size_t>(index)].offset;
  };

  for (std::int64_t block_begin = 0; block_begin < rows; block_begin += tiling.block_rows) {
    const std::int64_t block_rows = std::min(tiling.block_rows, rows - block_begin);
    exec.member.for_each((block_rows + tiling.chunk_rows - 1) / tiling.chunk_rows, [&](std::int64_t chunk) {
      const std::int64_t begin = block_begin + chunk * tiling.chunk_rows;
      const RowRange range{begin, std::min(begin + tiling.chunk_rows, block_begin + block_rows)};
      TeamMember alone = exec.member.alone();
      Exec serial{alone, exec.backend, exec.scratch};
      SplitScratch scratch(serial, static_cast<std::size_t>(tiling.chunk_rows * std::max(vocab, width)) * sizeof(float));
      auto* logits = reinterpret_cast<float*>(scratch.own);
      chunk_logits(scratch.inner, weights, x, buffers, logits, range);
      T* d_logits = buffers.d_logits + (begin - block_begin) * vocab;
      kernels_for<T>(exec).cross_entropy(logits, vocab, targets + begin, scaled_weight + begin, config.final_soft_cap,
                                         buffers.loss + begin, d_logits, vocab, range.rows(), vocab);
      mark(serial, Operation::loss, StepPhase::forward, -1, moved_cost(range.rows() * vocab, 4 + sizeof(T)));
      auto* d_norm = reinterpret_cast<float*>(scratch.own);  // the logits are no longer read
      matmul_backward_input(scratch.inner, {d_logits, element_type_of<T>(), range.rows(), vocab, vocab}, weights.head,
                            {d_norm, ElementType::f32, range.rows(), width, width});
      mark(serial, Operation::head_product, StepPhase::backward, -1,
           product_cost(range.rows(), width, vocab, sizeof(T), sizeof(float)));
      float* sums = buffers.norm_partials + begin / tiling.chunk_rows * 2 * width;
      std::fill_n(sums, 2 * width, 0.0F);
      std::fill_n(residual_gradient + begin * width, range.rows() * width, 0.0F);
      internal::norm_backward(serial, config, weights.final_norm, d_norm, x, buffers.norm_mean, buffers.norm_rstd,
                              residual_gradient, sums, config.norm_bias ? sums + width : nullptr, range);
      mark(serial, Operation::norm, StepPhase::backward, -1, moved_cost(range.rows() * width, 3 * sizeof(float)));
    });
    matmul_backward_weight(exec, {buffers.d_logits, element_type_of<T>(), block_rows, vocab, vocab},
                           rows_of(buffers.norm_out, {block_begin, block_begin + block_rows}, width), target(layout.head),
                           nullptr, accumulate || block_begin > 0);
    mark(exec, Operation::head_product, StepPhase::weight_gradient, -1,
         weight_gradient_cost(block_rows, vocab, width, sizeof(T), accumulate || block_begin > 0));
  }

  const std::int64_t chunks = (rows + tiling.chunk_rows - 1) / tiling.chunk_rows;
  float* norm_targets[] = {target(layout.final_norm), target(layout.final_norm_bias)};
  exec.member.for_each(2, [&](std::int64_t which) {
    float* sums = norm_targets[which];
    if (sums == nullptr) return;
    for (std::int64_t i = 0; i < width; ++i) {
      double sum = accumulate ? static_cast<double>(sums[i]) : 0.0;
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        sum += static_cast<double>(buffers.norm_partials[chunk * 2 * width + which * width + i]);
      }
      sums[i] = static_cast<float>(sum);
    }
  });
  mark(exec, Operation::sums, StepPhase::weight_gradient, -1, moved_cost(chunks * 2 * width, sizeof(float)));
}

template <class T>
void head_logits(Exec& exec, const ModelWeights& weights, const float* x, T* norm_out, float* logits, std::int64_t rows) {
  const ModelConfig& config = weights.config;
  HeadBuffers<T> buffers;
  buffers.norm_out = norm_out;
  chunk_logits(exec, weights, x, buffers, logits, {0, rows});
  if (config.final_soft_cap > 0.0F) {
    const float cap = config.final_soft_cap;
    exec.member.for_each(rows, [&](std::int64_t row) {
      for (std::int64_t i = 0; i < config.vocab; ++i) {
        float& logit = logits[row * config.vocab + i];
        logit = cap * std::tanh(logit / cap);
      }
    });
  }
}

#define QUERN_INSTANTIATE(T)                                                                                                \
  template void head_loss<T>(Exec&, const ModelWeights&, const float*, const std::int32_t*, const float*, std::int64_t,     \
                             const HeadBuffers<T>&);                                                                        \
  template void head_loss_backward<T>(Exec&, const ModelWeights&, const ParameterLayout&, const float*,                     \
                                      const std::int32_t*, const float*, std::int64_t, const HeadBuffers<T>&, float*, bool, \
                                      float*);                                                                              \
  template void head_logits<T>(Exec&, const ModelWeights&, const float*, T*, float*, std::int64_t);
QUERN_INSTANTIATE(float)
QUERN_INSTANTIATE(bf16)
#undef QUERN_INSTANTIATE

}  // namespace quern
