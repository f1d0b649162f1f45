// Element-wise kernels in AVX-512.
#include "math/elementwise_table-inl.hpp"

static_assert(HWY_STATIC_TARGET == HWY_AVX3, "needs the flags of AVX2 and of AVX-512 F, CD, BW, DQ and VL, and no more");

namespace quern {

const ElementwiseKernels* elementwise_kernels_avx512() {
  static constexpr ElementwiseKernels kKernels = elementwise_kernels("avx512");
  return &kKernels;
}

}  // namespace quern
