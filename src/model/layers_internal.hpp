// What the files of a block's two halves share.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include "math/aligned_buffer.hpp"
#include "math/exec.hpp"
#include "math/matmul.hpp"
#include "math/number_formats.hpp"
#include "model/layers.hpp"

namespace quern::internal {

template <class T>
[[nodiscard]] constexpr ElementType element_type_of() {
  return std::is_same_v<T, float> ? ElementType::f32 : ElementType::bf16;
}

[[nodiscard]] inline float as_float(float x) { return x; }
[[nodiscard]] inline float as_float(bf16 x) { return float_from_bf16(x); }

/// The table for activations stored as T.
template <class T>
[[nodiscard]] const ElementwiseKernelsFor<T>& kernels_for(const Exec& exec) {
  if constexpr (std::is_same_v<T, float>) {
    return exec.backend.kernels->elementwise->f32;
  } else {
    return exec.backend.kernels->elementwise->b16;
  }
}

/// Rows of a row-major [.., cols] buffer of T, as a product's operand.
template <class T>
[[nodiscard]] ConstMatrix rows_of(const T* data, RowRange range, std::int64_t cols) {
  return {data + range.begin * cols, element_type_of<T>(), range.rows(), cols, cols};
}
template <class T>
[[nodiscard]] MutableMatrix mutable_rows_of(T* data, RowRange range, std::int64_t cols) {
  return {data + range.begin * cols, element_type_of<T>(), range.rows(), cols, cols};
}

/// Null stays null.
template <class T>
[[nodiscard]] T* offset_or_null(T* pointer, std::int64_t elements) {
  return pointer == nullptr ? nullptr : pointer + elements;
}

/// The first `bytes` of exec's scratch as this function's own; the rest for the products it calls.
struct SplitScratch {
  SplitScratch(Exec& exec, std::size_t bytes)
      : own(exec.scratch.data()), inner{exec.member, exec.backend, exec.scratch.subspan(aligned(bytes))} {}
  [[nodiscard]] static constexpr std::size_t aligned(std::size_t bytes) {
    return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
  }
  std::byte* own;
  Exec inner;
};

/// Rows per piece when a whole team shares element-wise work on a few rows.
inline constexpr std::int64_t kTeamRows = 8;

/// Calls `work(RowRange)` over `range`: at once for a team of one, in pieces of kTeamRows shared among a larger team.
template <class Work>
void split_rows(Exec& exec, RowRange range, Work&& work) {
  if (exec.member.count() == 1) {
    work(range);
    return;
  }
  const std::int64_t pieces = (range.rows() + kTeamRows - 1) / kTeamRows;
  exec.member.for_each(pieces, [&](std::int64_t piece) {
    const std::int64_t begin = range.begin + piece * kTeamRows;
    work(RowRange{begin, std::min(begin + kTeamRows, range.end)});
  });
}

/// The products out [rows, w's rows] = in W^T + bias of a matrix in pieces, written to `parts`; returns how many.
inline std::size_t stacked_parts(const ConstMatrix& in, const StackedWeight& w, const MutableMatrix& out, const float* bias,
                                 ForwardPart* parts) {
  std::int64_t column = 0;
  std::size_t count = 0;
  const std::int64_t element_bytes = out.type == ElementType::f32 ? 4 : 2;
  for (const Weight& piece : w.pieces()) {
    MutableMatrix columns = out;
    columns.data = static_cast<std::byte*>(out.data) + column * element_bytes;
    columns.cols = piece.rows;
    parts[count++] = {.x = in, .weight = piece, .y = columns, .epilogue = {.bias = offset_or_null(bias, column)}};
    column += piece.rows;
  }
  return count;
}

/// Calls `work(RowRange, float* sums)` for each kSumRows rows of `range` and their row of norm_partials.
template <class T, class Work>
void for_sum_rows(const ModelConfig& config, const BlockGradients<T>& gradients, RowRange range, Work&& work) {
  const std::int64_t width = norm_partials(config).width;
  for (std::int64_t begin = range.begin; begin < range.end; begin += kSumRows) {
    work(RowRange{begin, std::min(begin + kSumRows, range.end)}, gradients.norm_partials + begin / kSumRows * width);
  }
}

/// out [rows, w's rows] = in W^T + bias for a matrix in pieces.
inline void stacked_forward(Exec& exec, const ConstMatrix& in, const StackedWeight& w, const MutableMatrix& out,
                            const float* bias) {
  std::array<ForwardPart, 3> parts;
  const std::size_t count = stacked_parts(in, w, out, bias, parts.data());
  matmul_forward_parts(exec, {parts.data(), count});
}

/// act = the gated activation of pre, rows `range` of both: pre [.., 2 mlp_width] is gate then up.
template <class T>
void gate(Exec& exec, const ModelConfig& config, const T* pre, T* act, RowRange range) {
  const std::int64_t hidden = config.mlp_width;
  split_rows(exec, range, [&](RowRange rows) {
    const T* in = pre + rows.begin * 2 * hidden;
    T* out = act + rows.begin * hidden;
    if (config.mlp == MlpKind::swiglu_clamped) {
      kernels_for<T>(exec).clamped_swiglu_forward(in, 2 * hidden, out, hidden, rows.rows(), hidden);
    } else {
      kernels_for<T>(exec).gated_forward(config.activation(), in, 2 * hidden, out, hidden, rows.rows(), hidden);
    }
  });
}

/// The gradient of pre [rows, 2 mlp_width] from that of act, d_act f32 [rows, mlp_width]. `act`, where not null, is computed
/// again into rows of pre's stride: it may be pre.
template <class T>
void gate_backward(const Exec& exec, const ModelConfig& config, const float* d_act, const T* pre, T* d_pre, T* act,
                   std::int64_t rows) {
  const std::int64_t hidden = config.mlp_width;
  ActivationBackward<T> backward{.activation = config.activation(), .dout = d_act, .dout_stride = hidden};
  backward.pre = pre;
  backward.dpre = d_pre;
  backward.act = act;
  backward.pre_stride = backward.dpre_stride = backward.act_stride = 2 * hidden;
  backward.rows = rows;
  backward.cols = hidden;
  const ElementwiseKernelsFor<T>& kernels = kernels_for<T>(exec);
  (config.mlp == MlpKind::swiglu_clamped ? kernels.clamped_swiglu_backward : kernels.gated_backward)(backward);
}

/// out = residual + dropout(rms_norm(branch)), rows `range` of each [.., width]. Where out is residual, branch is
/// overwritten; else it stays as the backward pass needs it. rstd may be null.
void add_normed_branch(Exec& exec, const ModelConfig& config, const float* weight, float* branch, float* rstd,
                       const float* residual, float* out, const DropoutMask& mask, RowRange range);

/// The gradient that enters a half's output, rows `range` of `residual` [.., width], through dropout and (weight not null)
/// back through the post norm: into d_branch, same rows. Zeroes, then fills the sums `dweight`. Serial exec, scratch for the
/// rows in f32.
template <class T>
void branch_backward(Exec& exec, const ModelConfig& config, const float* weight, const float* branch, const float* rstd,
                     const float* residual, T* d_branch, float* dweight, const DropoutMask& mask, RowRange range);

/// Ends a block half on rows `range`: out = residual + dropout(in W^T + bias), f32 [.., w.rows]. Dropout takes a team of
/// one.
inline void project_onto_residual(Exec& exec, const ConstMatrix& in, const Weight& w, const float* bias,
                                  const float* residual, float* out, const DropoutMask& mask, RowRange range) {
  const std::int64_t width = w.rows;
  const float* residual_rows = residual + range.begin * width;
  if (mask.probability == 0.0F) {
    matmul_forward(exec, in, w, mutable_rows_of(out, range, width),
                   {.bias = bias, .residual = residual_rows, .residual_stride = width});
    return;
  }
  SplitScratch scratch(exec, static_cast<std::size_t>(range.rows() * width) * sizeof(float));
  auto* branch = reinterpret_cast<float*>(scratch.own);
  matmul_forward(scratch.inner, in, w, {branch, ElementType::f32, range.rows(), width, width}, {.bias = bias});
  exec.backend.kernels->elementwise->dropout_add(branch, width, residual_rows, width, out + range.begin * width, width,
                                                 range.rows(), width, mask);
}

/// Where the weight gradients of a block's experts go: f32, in the parameters' shapes. Biases may be null.
struct ExpertWeightGradients {
  float* router = nullptr;
  float* router_bias = nullptr;
  float* in = nullptr;
  float* in_bias = nullptr;
  float* out = nullptr;
  float* out_bias = nullptr;
};
/// After experts_backward() of the same block; `accumulate` adds. Each expert's sums run over its rows in order. SPMD over
/// the whole team.
template <class T>
void expert_weight_gradients(Exec& exec, const ModelConfig& config, const BlockBuffers<T>& buffers,
                             const BlockGradients<T>& gradients, std::int64_t rows, bool accumulate,
                             const ExpertWeightGradients& to);

/// norm (either kind) of rows `range` of x [.., width] into out; mean and rstd may be null.
template <class T>
void norm_forward(Exec& exec, const ModelConfig& config, const float* weight, const float* bias, const float* x, T* out,
                  float* mean, float* rstd, RowRange range);

/// Rows of which every member of a team computes element-wise work for itself rather than wait for the others.
inline constexpr std::int64_t kOwnRows = 4;

/// Whether the members each compute what a product reads, when nobody keeps it for a backward pass.
[[nodiscard]] inline bool computes_own(const Exec& exec, RowRange range) {
  return exec.member.count() > 1 && range.begin == 0 && range.rows() <= kOwnRows;
}

/// The norm of rows `range` as the operand of a product: in `out`, or in each member's `own` memory (the first member's is
/// `out`) where computes_own() says so and no statistics are kept.
template <class T>
[[nodiscard]] ConstMatrix normed_rows(Exec& exec, const ModelConfig& config, const float* weight, const float* bias,
                                      const float* x, T* out, float* mean, float* rstd, RowRange range, T* own) {
  if (rstd != nullptr || !computes_own(exec, range)) {
    norm_forward(exec, config, weight, bias, x, out, mean, rstd, range);
    return rows_of<T>(out, range, config.width);
  }
  TeamMember alone = exec.member.alone();
  Exec serial{alone, exec.backend, {}};
  T* const to = exec.member.index() == 0 ? out : own;
  norm_forward<T>(serial, config, weight, bias, x, to, nullptr, nullptr, range);
  return rows_of<T>(to, range, config.width);
}

/// norm_forward's backward: dy [range.rows, width] f32, contiguous; residual (+=) of rows `range`; sums dweight, dbias.
void norm_backward(const Exec& exec, const ModelConfig& config, const float* weight, const float* dy, const float* x,
                   const float* mean, const float* rstd, float* residual, float* dweight, float* dbias, RowRange range);

}  // namespace quern::internal
