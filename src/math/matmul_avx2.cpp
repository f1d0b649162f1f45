// Matrix products for AVX2 and FMA.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "math/matmul_kernels.hpp"

namespace quern {
namespace {

struct Lanes {
  using V = __m256;
  static constexpr std::int64_t kCount = 8;

  static V zero() { return _mm256_setzero_ps(); }
  static V load(const float* x) { return _mm256_loadu_ps(x); }
  static V load_some(const float* x, std::int64_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(x, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane));
  }
  static void store(float* x, V v) { _mm256_storeu_ps(x, v); }
  static V broadcast(const float* x) { return _mm256_broadcast_ss(x); }
  static V add(V a, V b) { return _mm256_add_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V load_bf16(const bf16* x) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static void store_bf16(bf16* x, V v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
    const __m128i out = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(x), out);
  }
  static void store_two_bf16(bf16* x, V a, V b) {
    store_bf16(x, a);
    store_bf16(x + kCount, b);
  }
};

}  // namespace
}  // namespace quern

#include "math/matmul_tile-inl.hpp"

namespace quern {

// 6 x 16: twelve sums, two vectors of B and one of A in sixteen registers.
const MatmulKernels* matmul_kernels_avx2() {
  static constexpr MatmulKernels kKernels = f32_operand_kernels<6, 2>("avx2");
  return &kKernels;
}

}  // namespace quern
