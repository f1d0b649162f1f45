// The table of element-wise kernels that each instruction-set file instantiates.
#pragma once

#include "math/elementwise_activations-inl.hpp"
#include "math/elementwise_dropout-inl.hpp"
#include "math/elementwise_kernels.hpp"
#include "math/elementwise_loss-inl.hpp"
#include "math/elementwise_norms-inl.hpp"
#include "math/elementwise_rope-inl.hpp"
#include "math/elementwise_update-inl.hpp"

namespace quern {
namespace {

template <class T>
constexpr ElementwiseKernelsFor<T> elementwise_kernels_for() {
  return {.rms_norm_forward = rms_norm_rows<float, T>,
          .head_norm_forward = rms_norm_rows<T, T>,
          .head_norm_backward = rms_norm_backward_rows<false, T, T, T>,
          .layer_norm_forward = layer_norm_rows<T>,
          .activation_forward = activation_rows<T>,
          .activation_epilogue = activation_epilogue<T>,
          .activation_backward = activation_backward_rows<T>,
          .gated_forward = gated_rows<T>,
          .clamped_swiglu_forward = clamped_swiglu_rows<T>,
          .gated_backward = gated_backward_rows<T>,
          .clamped_swiglu_backward = clamped_swiglu_backward_rows<T>,
          .rope = rope_rows<T>,
          .cross_entropy_columns = cross_entropy_columns<T>,
          .cross_entropy_targets = cross_entropy_targets<T>,
          .scale_rows = scale_rows<T>,
          .from_f32 = convert_rows<float, T>,
          .to_f32 = convert_rows<T, float>,
          .dropout_backward = dropout_backward_rows<T>};
}

constexpr ElementwiseKernels elementwise_kernels(const char* name) {
  return {.name = name,
          .f32 = elementwise_kernels_for<float>(),
          .b16 = elementwise_kernels_for<bf16>(),
          .rms_norm_backward = rms_norm_backward_rows<true, float, float, float>,
          .layer_norm_backward = layer_norm_backward_rows,
          .embedding_forward = embedding_rows,
          .dropout_add = dropout_add_rows,
          .add = add_to,
          .sum_of_squares = sum_of_squares_of,
          .softmax = softmax_rows,
          .adamw = adamw_update,
          .nesterov = nesterov_update,
          .axpby = axpby_of};
}

}  // namespace
}  // namespace quern
