#include "model/output_head.hpp"

#include <algorithm>
#include <cmath>

#include "math/cross_entropy.hpp"
#include "math/matmul.hpp"
#include "model/layers_internal.hpp"

namespace quern {

using internal::element_type_of;
using internal::kernels_for;
using internal::rows_of;
using internal::SplitScratch;

namespace {
/// Bytes of f32 logits that one thread computes before their exponentials are taken: half of a 2 MiB L2.
constexpr std::int64_t kStripBytes = std::int64_t{1} << 20;
/// Every chunk reads the whole packed head, forward and backward, so chunks have many rows; but all threads need some.
constexpr std::int64_t kMaxChunkRows = 128;
constexpr std::int64_t kMinChunkRows = 32;
constexpr std::int64_t kEnoughChunks = 8;
/// Bytes of logit gradients kept for the head's weight gradient. The weight gradient is read and written once per block, so
/// blocks of fewer than about a thousand rows would make that traffic dominate.
constexpr std::int64_t kBlockBytes = std::int64_t{96} << 20;
constexpr std::int64_t kMinBlockRows = 512;
/// Strips' rows are this much longer than needed, so that they do not share cache sets.
constexpr std::int64_t kStripPad = 16;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

/// Columns of a strip of logits; whole blocks of the softmax. All of them where product and softmax are not fused.
std::int64_t strip_cols(const Backend& backend, std::int64_t vocab, std::int64_t chunk_rows) {
  if (!backend.fused) return vocab;
  const std::int64_t blocks = std::max<std::int64_t>(1, kStripBytes / (chunk_rows * kCrossEntropyBlock * 4));
  return std::min(vocab, blocks * kCrossEntropyBlock);
}

/// One thread's working memory for a chunk, cut from its scratch.
struct ChunkMemory {
  ChunkMemory(Exec& exec, std::int64_t chunk_rows, std::int64_t vocab, std::int64_t width)
      : cols(strip_cols(exec.backend, vocab, chunk_rows)),
        scratch(exec, bytes(exec.backend, chunk_rows, vocab, width)),
        rows(reinterpret_cast<CrossEntropyRow*>(scratch.own)),
        factor(reinterpret_cast<float*>(scratch.own + rows_bytes(chunk_rows))),
        strip(reinterpret_cast<float*>(scratch.own + rows_bytes(chunk_rows) + factor_bytes(chunk_rows))) {}

  [[nodiscard]] static std::size_t rows_bytes(std::int64_t chunk_rows) {
    return SplitScratch::aligned(static_cast<std::size_t>(chunk_rows) * sizeof(CrossEntropyRow));
  }
  [[nodiscard]] static std::size_t factor_bytes(std::int64_t chunk_rows) {
    return SplitScratch::aligned(static_cast<std::size_t>(chunk_rows) * sizeof(float));
  }
  [[nodiscard]] static std::size_t bytes(const Backend& backend, std::int64_t chunk_rows, std::int64_t vocab,
                                         std::int64_t width) {
    const std::int64_t floats = chunk_rows * std::max(strip_cols(backend, vocab, chunk_rows) + kStripPad, width);
    return rows_bytes(chunk_rows) + factor_bytes(chunk_rows) + static_cast<std::size_t>(floats) * sizeof(float);
  }

  std::int64_t cols;
  SplitScratch scratch;
  CrossEntropyRow* rows;  ///< [chunk_rows]
  float* factor;          ///< [chunk_rows] by which the rows of d_logits are too small
  float* strip;           ///< [chunk_rows, cols + kStripPad] logits, later [chunk_rows, width]
};

/// The final norm of rows `range`.
template <class T>
void final_norm(Exec& exec, const ModelWeights& weights, const float* x, const HeadBuffers<T>& buffers, RowRange range) {
  const ModelConfig& config = weights.config;
  internal::norm_forward(exec, config, weights.final_norm, weights.final_norm_bias, x, buffers.norm_out, buffers.norm_mean,
                         buffers.norm_rstd, range);
  mark(exec, Operation::norm, StepPhase::forward, -1, moved_cost(range.rows() * config.width, 4 + sizeof(T)));
}

/// Losses of rows `range` from norm_out, a strip of logits at a time. Where `d_logits` is not null, also the gradients of
/// those losses times `scale`, each row divided by memory.factor; norm_out is multiplied by it. Serial exec.
template <class T>
void chunk_loss(Exec& exec, const ModelWeights& weights, const std::int32_t* targets, const float* scale, RowRange range,
                const HeadBuffers<T>& buffers, ChunkMemory& memory, T* d_logits) {
  const ModelConfig& config = weights.config;
  const std::int64_t vocab = config.vocab;
  const std::int64_t stride = memory.cols + kStripPad;
  const auto& kernels = kernels_for<T>(exec);
  std::fill_n(memory.rows, range.rows(), CrossEntropyRow{});
  for (std::int64_t first = 0; first < vocab; first += memory.cols) {
    const std::int64_t cols = std::min(memory.cols, vocab - first);
    matmul_forward(memory.scratch.inner, rows_of(buffers.norm_out, range, config.width),
                   weight_rows(exec.backend, weights.head, first, cols),
                   {memory.strip, ElementType::f32, range.rows(), cols, stride});
    mark(exec, Operation::head_product, StepPhase::forward, -1,
         product_cost(range.rows(), cols, config.width, sizeof(T), sizeof(float)));
    kernels.cross_entropy_columns({.logits = memory.strip,
                                   .logits_stride = stride,
                                   .rows = range.rows(),
                                   .first_col = first,
                                   .cols = cols,
                                   .target = targets + range.begin,
                                   .row_scale = scale + range.begin,
                                   .soft_cap = config.final_soft_cap,
                                   .row = memory.rows,
                                   .exponentials = d_logits == nullptr ? nullptr : d_logits + first,
                                   .exponentials_stride = vocab});
    mark(exec, Operation::loss, StepPhase::forward, -1,
         moved_cost(range.rows() * cols, sizeof(float) + (d_logits == nullptr ? 0 : sizeof(T))));
  }
  for (std::int64_t r = 0; r < range.rows(); ++r) {
    buffers.loss[range.begin + r] = cross_entropy_loss(memory.rows[r], scale[range.begin + r]);
  }
  if (d_logits == nullptr) return;
  // One more pass over d_logits is saved by putting the factor elsewhere: into norm_out, the other operand of the weight
  // gradient, and into the sums of the backward product.
  kernels.cross_entropy_targets(memory.rows, targets + range.begin, scale + range.begin, d_logits, vocab, memory.factor,
                                range.rows(), vocab);
  T* norm_out = buffers.norm_out + range.begin * config.width;
  kernels.scale_rows(norm_out, config.width, memory.factor, norm_out, config.width, range.rows(), config.width);
  mark(exec, Operation::loss, StepPhase::forward, -1, moved_cost(range.rows() * config.width, 2 * sizeof(T)));
}
}  // namespace

HeadTiling head_tiling(const ModelConfig& config, std::int64_t rows) {
  HeadTiling tiling;
  tiling.chunk_rows = std::clamp(round_up((rows + kEnoughChunks - 1) / kEnoughChunks, 32), kMinChunkRows, kMaxChunkRows);
  const std::int64_t budget_rows = std::max(kMinBlockRows, kBlockBytes / (config.vocab * 4));
  const std::int64_t blocks = std::max<std::int64_t>(1, (rows + budget_rows - 1) / budget_rows);
  tiling.block_rows = round_up((rows + blocks - 1) / blocks, 2 * tiling.chunk_rows);  // even, so that threads have as much
  return tiling;
}

std::size_t head_scratch_bytes(const Backend& backend, const ModelConfig& config, std::int64_t rows) {
  const HeadTiling tiling = head_tiling(config, rows);
  return SplitScratch::aligned(ChunkMemory::bytes(backend, tiling.chunk_rows, config.vocab, config.width)) +
         matmul_scratch_bytes(backend, tiling.block_rows, std::max(config.vocab, config.width));
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
    ChunkMemory memory(serial, chunk_rows, config.vocab, config.width);
    final_norm(serial, weights, x, buffers, range);
    chunk_loss<T>(serial, weights, targets, row_weight, range, buffers, memory, nullptr);
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
      ChunkMemory memory(serial, tiling.chunk_rows, vocab, width);
      T* d_logits = buffers.d_logits + (begin - block_begin) * vocab;
      final_norm(serial, weights, x, buffers, range);
      chunk_loss(serial, weights, targets, scaled_weight, range, buffers, memory, d_logits);
      float* d_norm = memory.strip;  // its logits are no longer read
      matmul_backward_input(memory.scratch.inner, {d_logits, element_type_of<T>(), range.rows(), vocab, vocab}, weights.head,
                            {d_norm, ElementType::f32, range.rows(), width, width});
      exec.backend.kernels->elementwise->f32.scale_rows(d_norm, width, memory.factor, d_norm, width, range.rows(), width);
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
  final_norm(exec, weights, x, buffers, {0, rows});
  matmul_forward(exec, rows_of(norm_out, {0, rows}, config.width), weights.head,
                 {logits, ElementType::f32, rows, config.vocab, config.vocab});
  mark(exec, Operation::head_product, StepPhase::forward, -1,
       product_cost(rows, config.vocab, config.width, sizeof(T), sizeof(float)));
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
