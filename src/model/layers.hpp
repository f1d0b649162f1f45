// One transformer block and its surroundings: forward and backward of each half, over a range of rows.
//
// Block (pre-norm): x_mid = x_in + Wo attention(norm1(x_in)); x_out = x_mid + mlp(norm2(x_mid)). With post norms each half's
// output passes one more RMS norm before it is added; dropout is the last before the addition.
// The residual stream and its gradient are f32. Operands of products are T (float or bf16, the compute type).
// Training calls these functions on chunks of rows, one thread each (Exec with a team of one); decoding calls them on all
// rows of a batch with the whole team. A row's bits are the same either way.
#pragma once

#include <cstdint>

#include "math/attention.hpp"
#include "math/exec.hpp"
#include "model/model_config.hpp"
#include "model/weights.hpp"

namespace quern {

/// Memory of the feed-forward part with experts. Each row takes experts_used slots; slots are ordered by expert, then by
/// row, so that an expert's rows are consecutive. Training keeps what is marked "kept" until the backward pass and shares
/// the rest among blocks; inference shares all.
template <class T>
struct ExpertBuffers {
  float* router_logits = nullptr;      ///< [rows, experts]
  std::int32_t* chosen = nullptr;      ///< [rows, experts_used] experts, the largest logit first; kept
  float* chosen_weight = nullptr;      ///< [rows, experts_used] kept
  std::int32_t* slot = nullptr;        ///< [rows, experts_used] where each choice's rows stand below; kept
  std::int64_t* first_slot = nullptr;  ///< [experts + 1] each expert's first slot; kept
  T* input = nullptr;                  ///< [rows * experts_used, width]; gathered again in the backward pass
  T* pre = nullptr;                    ///< [rows * experts_used, 2 mlp_width] kept
  T* act = nullptr;                    ///< [rows * experts_used, mlp_width] kept
  float* out = nullptr;                ///< [rows * experts_used, width]
};

/// Buffers of one block for all rows of a (micro-)batch, row-major. Training keeps all of them until the backward pass;
/// inference passes null for what only the backward pass reads (marked "backward") and may give x_in, x_mid and x_out
/// the same memory.
template <class T>
struct BlockBuffers {
  float* x_in = nullptr;                ///< [rows, width] residual stream entering the block
  T* norm1_out = nullptr;               ///< [rows, width]
  float* norm1_mean = nullptr;          ///< [rows], backward, layer_norm only
  float* norm1_rstd = nullptr;          ///< [rows], backward
  T* qkv = nullptr;                     ///< [rows, qkv_width] after bias, QK norm and RoPE
  T* qk_raw = nullptr;                  ///< [rows, query_width + kv_width] before QK norm, backward
  float* qk_rstd = nullptr;             ///< [rows, heads + kv_heads], backward, QK norm only
  T* attention = nullptr;               ///< [rows, query_width]
  float* lse = nullptr;                 ///< [rows, heads], backward
  float* x_mid = nullptr;               ///< [rows, width]
  T* norm2_out = nullptr;               ///< [rows, width]
  float* norm2_mean = nullptr;          ///< [rows], backward, layer_norm only
  float* norm2_rstd = nullptr;          ///< [rows], backward
  T* mlp_pre = nullptr;                 ///< [rows, mlp_width or 2 mlp_width] before the activation; see mlp_act
  T* mlp_act = nullptr;                 ///< [rows, mlp_width]; null in training, where scratch holds it, and mlp_backward
                                        ///< puts it, computed again, where mlp_pre began
  float* x_out = nullptr;               ///< [rows, width]
  float* branch1 = nullptr;             ///< [rows, width] the attention half's output before its post norm; post_norms only
  float* branch1_rstd = nullptr;        ///< [rows], backward, post_norms only
  float* branch2 = nullptr;             ///< [rows, width] the same of the feed-forward half; inference: may be branch1
  float* branch2_rstd = nullptr;        ///< [rows], backward, post_norms only
  ExpertBuffers<T>* experts = nullptr;  ///< models with experts only
  bool outgrow_caches = false;          ///< what is kept until the backward pass will have left the caches by then
};

/// Gradients of the feed-forward part with experts, in the same slots; shared by all blocks.
template <class T>
struct ExpertGradients {
  float* branch = nullptr;     ///< [rows, width] of the weighted sum of outputs, before its post norm
  T* output = nullptr;         ///< [rows * experts_used, width] of experts' outputs
  float* act = nullptr;        ///< [rows * experts_used, mlp_width]
  T* pre = nullptr;            ///< [rows * experts_used, 2 mlp_width]
  float* input = nullptr;      ///< [rows * experts_used, width]
  T* router_logits = nullptr;  ///< [rows, experts]
};

/// Gradients of one block for all rows of a micro-batch; shared by all blocks.
template <class T>
struct BlockGradients {
  float* residual = nullptr;       ///< [rows, width] gradient of x_out on entry, of x_in on return
  T* mlp_out = nullptr;            ///< [rows, width] gradient of the feed-forward output (before its post norm)
  T* mlp_pre = nullptr;            ///< [rows, mlp_width or 2 mlp_width]
  T* attention_out = nullptr;      ///< [rows, width] gradient of the attention projection's output (before its post norm)
  T* attention = nullptr;          ///< [rows, query_width]
  T* qkv = nullptr;                ///< [rows, qkv_width]
  float* norm_partials = nullptr;  ///< [sum_groups(rows), NormPartials::width] for norm parameters and sinks
  ExpertGradients<T>* experts = nullptr;  ///< models with experts only, which have no mlp_out and mlp_pre
  bool outgrow_caches = false;            ///< what weight gradients need will have left the caches by then
};

/// Gradients of norm parameters and sinks are summed over this many rows at a time, and these sums then in row order: so
/// their bits depend neither on threads nor on how rows are cut into chunks, which begin at multiples of it.
inline constexpr std::int64_t kSumRows = 32;
[[nodiscard]] constexpr std::int64_t sum_groups(std::int64_t rows) { return (rows + kSumRows - 1) / kSumRows; }

/// Rows begin .. end-1 of a batch.
struct RowRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  [[nodiscard]] std::int64_t rows() const { return end - begin; }
};

/// Dropout of a block: masks differ by site. probability 0 turns it off (evaluation, inference).
struct BlockDropout {
  float probability = 0.0F;
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t layer = 0;
  [[nodiscard]] DropoutMask attention() const { return {probability, seed, step, layer * 4, 0}; }
  [[nodiscard]] DropoutMask attention_out(std::int64_t row) const {
    return {probability, seed, step, layer * 4 + 1, static_cast<std::uint32_t>(row)};
  }
  [[nodiscard]] DropoutMask mlp_out(std::int64_t row) const {
    return {probability, seed, step, layer * 4 + 2, static_cast<std::uint32_t>(row)};
  }
};

/// Scratch bytes per thread that the functions below need for ranges of at most `rows` rows, products included.
[[nodiscard]] std::size_t block_scratch_bytes(const Backend& backend, const ModelConfig& config, std::int64_t rows,
                                              bool training);

/// Called with rows that are complete, by whichever thread completed them; null: nobody.
struct RowsReady {
  void* context = nullptr;
  void (*call)(void* context, RowRange rows) = nullptr;
};

/// norm1, QKV projection, QK norm and RoPE of `range`: fills norm1_out and qkv. `positions` are all rows' positions. `ready`
/// learns which rows of qkv are complete, before any thread goes on.
template <class T>
void attention_input_forward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                             const std::int32_t* positions, RowRange range, const RowsReady& ready = {});

/// Output projection and residual: x_mid from attention and x_in.
template <class T>
void attention_output_forward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                              const BlockDropout& dropout, RowRange range);

/// norm2, feed-forward and residual: x_out from x_mid.
template <class T>
void mlp_forward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                 const BlockDropout& dropout, RowRange range);

/// The rest of mlp_forward for models with experts (Shazeer et al. 2017; Jiang et al. 2024): routes the rows of norm2_out,
/// computes each expert on its rows and adds the weighted outputs, in the order of the choices: x_out from x_mid. `range`
/// is all rows. Where two logits are equal the lower expert counts as larger. Dropout needs x_out apart from x_mid.
template <class T>
void experts_forward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                     const BlockDropout& dropout, RowRange range);

/// Where the sums for norm parameters and sinks stand in a row of BlockGradients::norm_partials (elements).
struct NormPartials {
  std::int64_t norm1 = 0, norm1_bias = 0, norm2 = 0, norm2_bias = 0, q_norm = 0, k_norm = 0, post_norm1 = 0, post_norm2 = 0;
  std::int64_t sinks = 0;
  std::int64_t width = 0;  ///< of a row
};
[[nodiscard]] NormPartials norm_partials(const ModelConfig& config);

/// Backward of mlp_forward on the rows `range`, from a multiple of kSumRows on: residual goes from d x_out to d x_mid; fills
/// mlp_out and mlp_pre, replaces the first mlp_width columns of buffers.mlp_pre by the activations, and zeroes then fills
/// these rows' norm2 and post norm sums. Serial exec.
template <class T>
void mlp_backward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                  const BlockGradients<T>& gradients, const BlockDropout& dropout, RowRange range);

/// Backward of mlp_forward for models with experts, on all `rows` in chunks of chunk_rows: residual goes from d x_out to d
/// x_mid; fills gradients.experts and the norm2 and post norm sums. The choice of experts is taken as fixed. SPMD
/// over the whole team.
template <class T>
void experts_backward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                      const BlockGradients<T>& gradients, const BlockDropout& dropout, std::int64_t rows,
                      std::int64_t chunk_rows);

/// Backward of attention_output_forward up to the attention itself, rows as in mlp_backward: fills attention_out, attention,
/// and the sums of post norm and sinks. Serial exec.
template <class T>
void attention_output_backward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                               const BlockGradients<T>& gradients, const BlockDropout& dropout, RowRange range);

/// Backward of attention_input_forward: gradients.qkv holds the gradients after RoPE on entry and before QK norm on return;
/// residual goes from d x_mid to d x_in; fills the norm1, q_norm and k_norm sums. Rows as in mlp_backward. Serial exec.
template <class T>
void attention_input_backward(Exec& exec, const ModelWeights& weights, std::int64_t layer, const BlockBuffers<T>& buffers,
                              const BlockGradients<T>& gradients, const std::int32_t* positions, RowRange range);

/// Weight gradients of one block after its backward functions ran on all rows: `block` is the f32 gradient block in
/// layout's order. `accumulate` adds to it. SPMD over the whole team.
template <class T>
void block_weight_gradients(Exec& exec, const ModelConfig& config, const ParameterLayout& layout, std::int64_t layer,
                            const BlockBuffers<T>& buffers, const BlockGradients<T>& gradients, std::int64_t rows,
                            bool accumulate, float* block);

}  // namespace quern
