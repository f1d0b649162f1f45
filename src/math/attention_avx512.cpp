// Attention in AVX-512. The path with VNNI takes the same kernels: bf16 dot products would halve the rate of f32 FMA.
#include "math/attention_decode-inl.hpp"

#if HWY_STATIC_TARGET != HWY_AVX3
#error "This file must be compiled for AVX-512 F, CD, BW, DQ, VL"
#endif

namespace quern {

const AttentionKernels* attention_kernels_avx512() {
  static constexpr AttentionKernels kKernels = {"avx512", forward_f32_task, forward_task<F32Products<bf16>>,
                                                backward_task<F32Products<float>>, backward_task<F32Products<bf16>>};
  return &kKernels;
}

const AttentionKernels* attention_kernels_avx512_vnni() { return attention_kernels_avx512(); }

}  // namespace quern
