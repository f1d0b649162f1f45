// Attention in AVX2 and FMA.
#include "math/attention_decode-inl.hpp"

#if HWY_STATIC_TARGET != HWY_AVX2
#error "This file must be compiled for AVX2"
#endif

namespace quern {

const AttentionKernels* attention_kernels_avx2() {
  static constexpr AttentionKernels kKernels = {"avx2", forward_f32_task, forward_task<F32Products<bf16>>,
                                                backward_task<F32Products<float>>, backward_task<F32Products<bf16>>};
  return &kKernels;
}

}  // namespace quern
