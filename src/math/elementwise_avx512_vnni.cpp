// Element-wise kernels in AVX-512 with conversions to bf16 in hardware.
#include "math/elementwise_table-inl.hpp"

static_assert(HWY_STATIC_TARGET == HWY_AVX3,
              "needs the flags of AVX2 and of AVX-512 F, CD, BW, DQ and VL; Highway knows no more");

namespace quern {

const ElementwiseKernels* elementwise_kernels_avx512_vnni() {
  static constexpr ElementwiseKernels kKernels = elementwise_kernels("avx512_vnni");
  return &kKernels;
}

}  // namespace quern
