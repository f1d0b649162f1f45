// Element-wise kernels in AVX2.
#include "math/elementwise_table-inl.hpp"

static_assert(HWY_STATIC_TARGET == HWY_AVX2, "needs the flags of AVX2, FMA, F16C, BMI, BMI2, AES and PCLMUL, and no more");

namespace quern {

const ElementwiseKernels* elementwise_kernels_avx2() {
  static constexpr ElementwiseKernels kKernels = elementwise_kernels("avx2");
  return &kKernels;
}

}  // namespace quern
