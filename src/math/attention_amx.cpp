// Attention with AMX tiles for bf16; f32 runs as in AVX-512.

// False alarms inside GCC 12's intrinsics.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include "math/attention_amx_backward-inl.hpp"
#include "math/attention_amx_forward-inl.hpp"
#include "math/attention_decode-inl.hpp"

#if HWY_STATIC_TARGET != HWY_AVX3
#error "This file must be compiled for AVX-512 F, CD, BW, DQ, VL"
#endif

namespace quern {

const AttentionKernels* attention_kernels_amx() {
  static constexpr AttentionKernels kKernels = {"amx", forward_f32_task, forward_tiles, backward_task<F32Products<float>>,
                                                backward_tiles};
  return &kKernels;
}

}  // namespace quern
