// Block kernels for AVX2, FMA and F16C.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "math/block_kernels.hpp"

// In this order: each is written over those before.
#include "math/block_ahead-inl.hpp"
#include "math/block_scales_avx2-inl.hpp"
//
#include "math/block_activations_avx2-inl.hpp"
#include "math/block_lanes_avx2-inl.hpp"
//
#include "math/block_row_groups-inl.hpp"
//
#include "math/block_products_avx2-inl.hpp"
//
#include "math/block_unpack-inl.hpp"
//
#include "math/block_rows-inl.hpp"
//
#include "math/block_panels-inl.hpp"
//
#include "math/block_table-inl.hpp"

namespace quern {
namespace {

struct FloatLanes {
  using V = __m256;
  static constexpr std::int64_t kCount = 8;

  static V zero() { return _mm256_setzero_ps(); }
  static V load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
  static V load_f16(const std::byte* p) { return _mm256_cvtph_ps(load16(p)); }
  static V load_bf16(const std::byte* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(p)), 16));
  }
  static V add(V a, V b) { return _mm256_add_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static float sum(V v) { return lane_sum(v); }
};

}  // namespace
}  // namespace quern

#include "math/block_float-inl.hpp"

namespace quern {

const BlockKernels* block_kernels_avx2() {
  static constexpr BlockKernels kKernels = {.name = "avx2",
                                            .decode = nullptr,
                                            .quantize_activations = quantize_activations,
                                            .has_dot = has_dot,
                                            .dot = dot,
                                            .interleave_rows = kRows,
                                            .decode_floats = decode_floats,
                                            .float_dot = float_dot};
  return &kKernels;
}

}  // namespace quern
