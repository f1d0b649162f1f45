// Matrix products for AVX-512 (F, BW, DQ, VL), f32 operands.

// False alarms inside GCC 12's intrinsics.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "math/matmul_kernels.hpp"

// In this order: the kernels are written over Lanes.
#include "math/matmul_lanes_avx512-inl.hpp"
//
#include "math/matmul_tile-inl.hpp"

namespace quern {

// 14 x 32: 28 sums, two vectors of B and one of A in 32 registers, 16 loads for 28 multiply-adds; B comes from L2 at 9 bytes
// a cycle. 8 x 48 and 6 x 64 need twice that.
const MatmulKernels* matmul_kernels_avx512() {
  static constexpr MatmulKernels kKernels = f32_operand_kernels<14, 2>("avx512");
  return &kKernels;
}

}  // namespace quern
