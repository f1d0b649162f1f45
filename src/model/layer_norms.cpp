#include "model/layers_internal.hpp"

namespace quern::internal {

template <class T>
void norm_forward(Exec& exec, const ModelConfig& config, const float* weight, const float* bias, const float* x, T* out,
                  float* mean, float* rstd, RowRange range) {
  const ElementwiseKernelsFor<T>& kernels = kernels_for<T>(exec);
  const std::int64_t width = config.width;
  split_rows(exec, range, [&](RowRange rows) {
    const float* x_rows = x + rows.begin * width;
    T* out_rows = out + rows.begin * width;
    if (config.norm == NormKind::rms_norm) {
      kernels.rms_norm_forward(x_rows, width, weight, config.norm_eps, out_rows, width, offset_or_null(rstd, rows.begin),
                               rows.rows(), width);
    } else {
      kernels.layer_norm_forward(x_rows, width, weight, bias, config.norm_eps, out_rows, width,
                                 offset_or_null(mean, rows.begin), offset_or_null(rstd, rows.begin), rows.rows(), width);
    }
  });
}

void norm_backward(const Exec& exec, const ModelConfig& config, const float* weight, const float* dy, const float* x,
                   const float* mean, const float* rstd, float* residual, float* dweight, float* dbias, RowRange range) {
  std::fill_n(dweight, config.width, 0.0F);
  if (dbias != nullptr) std::fill_n(dbias, config.width, 0.0F);
  const ElementwiseKernels& kernels = *exec.backend.kernels->elementwise;
  const std::int64_t width = config.width;
  const std::int64_t start = range.begin * width;
  if (config.norm == NormKind::rms_norm) {
    kernels.rms_norm_backward(dy, width, x + start, width, weight, rstd + range.begin, residual + start, width, dweight,
                              range.rows(), width);
  } else {
    kernels.layer_norm_backward(dy, width, x + start, width, weight, mean + range.begin, rstd + range.begin,
                                residual + start, width, dweight, dbias, range.rows(), width);
  }
}

void add_normed_branch(Exec& exec, const ModelConfig& config, const float* weight, float* branch, float* rstd,
                       const float* residual, float* out, const DropoutMask& mask, RowRange range) {
  const ElementwiseKernels& kernels = *exec.backend.kernels->elementwise;
  const std::int64_t width = config.width;
  float* normed = out == residual ? branch : out;
  split_rows(exec, range, [&](RowRange rows) {
    const std::int64_t start = rows.begin * width;
    kernels.f32.head_norm_forward(branch + start, width, weight, config.norm_eps, normed + start, width,
                                  offset_or_null(rstd, rows.begin), rows.rows(), width);
    DropoutMask piece = mask;
    piece.first_row += static_cast<std::uint32_t>(rows.begin - range.begin);
    kernels.dropout_add(normed + start, width, residual + start, width, out + start, width, rows.rows(), width, piece);
  });
}

template <class T>
void branch_backward(Exec& exec, const ModelConfig& config, const float* weight, const float* branch, const float* rstd,
                     const float* residual, T* d_branch, float* dweight, const DropoutMask& mask, RowRange range) {
  const ElementwiseKernelsFor<T>& kernels = kernels_for<T>(exec);
  const std::int64_t width = config.width;
  const std::int64_t rows = range.rows();
  const std::int64_t start = range.begin * width;
  if (weight == nullptr) {
    kernels.dropout_backward(residual + start, width, d_branch + start, width, rows, width, mask);
    return;
  }
  const ElementwiseKernelsFor<float>& plain = exec.backend.kernels->elementwise->f32;
  auto* d = reinterpret_cast<float*>(exec.scratch.data());
  plain.dropout_backward(residual + start, width, d, width, rows, width, mask);
  std::fill_n(dweight, width, 0.0F);
  plain.head_norm_backward(d, width, branch + start, width, weight, rstd + range.begin, d, width, dweight, rows, width);
  kernels.from_f32(d, width, d_branch + start, width, rows, width);
}

template void norm_forward<float>(Exec&, const ModelConfig&, const float*, const float*, const float*, float*, float*,
                                  float*, RowRange);
template void norm_forward<bf16>(Exec&, const ModelConfig&, const float*, const float*, const float*, bf16*, float*, float*,
                                 RowRange);
template void branch_backward<float>(Exec&, const ModelConfig&, const float*, const float*, const float*, const float*,
                                     float*, float*, const DropoutMask&, RowRange);
template void branch_backward<bf16>(Exec&, const ModelConfig&, const float*, const float*, const float*, const float*, bf16*,
                                    float*, const DropoutMask&, RowRange);

}  // namespace quern::internal
