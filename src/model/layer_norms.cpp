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

void add_normed_branch(Exec& exec, const ModelConfig& config, const float* weight, float* branch, const float* residual,
                       float* out, RowRange range) {
  const ElementwiseKernels& kernels = *exec.backend.kernels->elementwise;
  const std::int64_t width = config.width;
  split_rows(exec, range, [&](RowRange rows) {
    const std::int64_t start = rows.begin * width;
    kernels.f32.head_norm_forward(branch + start, width, weight, config.norm_eps, branch + start, width, nullptr,
                                  rows.rows(), width);
    if (out != residual) std::copy_n(residual + start, rows.rows() * width, out + start);
    kernels.add(branch + start, out + start, rows.rows() * width);
  });
}

template void norm_forward<float>(Exec&, const ModelConfig&, const float*, const float*, const float*, float*, float*,
                                  float*, RowRange);
template void norm_forward<bf16>(Exec&, const ModelConfig&, const float*, const float*, const float*, bf16*, float*, float*,
                                 RowRange);

}  // namespace quern::internal
