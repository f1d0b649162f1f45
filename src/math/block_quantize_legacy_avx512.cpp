// Quantizers of the legacy formats for AVX-512: sixteen blocks at a time.

// False alarms inside GCC 12's intrinsics.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "math/block_quantize.hpp"

namespace quern {
namespace {
namespace lanes {

#define QUERN_LANES_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 16;
typedef float V __attribute__((vector_size(64)));
typedef std::int32_t I __attribute__((vector_size(64)));

QUERN_LANES_INLINE V splat(float x) { return _mm512_set1_ps(x); }
QUERN_LANES_INLINE I splat_i(std::int32_t x) { return reinterpret_cast<I>(_mm512_set1_epi32(x)); }
QUERN_LANES_INLINE V min(V a, V b) { return _mm512_min_ps(a, b); }
QUERN_LANES_INLINE V max(V a, V b) { return _mm512_max_ps(a, b); }
/// For exact results only, where that it rounds once makes no difference.
QUERN_LANES_INLINE V fused_multiply_add(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
QUERN_LANES_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
QUERN_LANES_INLINE void store(I x, std::int32_t* p) { _mm512_storeu_si512(p, reinterpret_cast<__m512i>(x)); }
QUERN_LANES_INLINE bool any(I mask) {
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(mask), reinterpret_cast<__m512i>(mask)) != 0;
}
QUERN_LANES_INLINE I f16_bits(V x) {
  return reinterpret_cast<I>(_mm512_cvtepu16_epi32(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)));
}
QUERN_LANES_INLINE V from_f16(I bits) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(bits))); }
QUERN_LANES_INLINE V look_up(const float (&table)[16], I index) {
  return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), _mm512_load_ps(table));
}
/// Writes sixteen 16-bit numbers.
QUERN_LANES_INLINE void store_u16(I bits, std::byte* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(bits)));
}

QUERN_LANES_INLINE __m512 low_pairs(__m512 a, __m512 b) {
  return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
QUERN_LANES_INLINE __m512 high_pairs(__m512 a, __m512 b) {
  return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
QUERN_LANES_INLINE __m512 even_quarters(__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0x88); }
QUERN_LANES_INLINE __m512 odd_quarters(__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0xDD); }

/// out[j][lane] = x[kStride * lane + j] for j < 16.
template <int kStride>
QUERN_LANES_INLINE void transpose16(const float* x, V* out) {
  // Pairs, quads, then 128-bit quarters.
  __m512 a[16];
  __m512 b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(x + kStride * i);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  // a[i + k]: columns 4m + k of rows i to i + 3 in quarter m.
  for (int i = 0; i < 16; i += 4) {
    a[i] = low_pairs(b[i], b[i + 2]);
    a[i + 1] = high_pairs(b[i], b[i + 2]);
    a[i + 2] = low_pairs(b[i + 1], b[i + 3]);
    a[i + 3] = high_pairs(b[i + 1], b[i + 3]);
  }
  for (int k = 0; k < 4; ++k) {
    const __m512 even_low = even_quarters(a[k], a[4 + k]);        // quarters 0, 2 of rows 0-3, 4-7
    const __m512 odd_low = odd_quarters(a[k], a[4 + k]);          // quarters 1, 3
    const __m512 even_high = even_quarters(a[8 + k], a[12 + k]);  // the same of rows 8-11, 12-15
    const __m512 odd_high = odd_quarters(a[8 + k], a[12 + k]);
    out[k] = even_quarters(even_low, even_high);
    out[4 + k] = even_quarters(odd_low, odd_high);
    out[8 + k] = odd_quarters(even_low, even_high);
    out[12 + k] = odd_quarters(odd_low, odd_high);
  }
}

/// out[j][lane] = x[kStride * lane + j] for j < 32.
template <int kStride>
QUERN_LANES_INLINE void transpose32(const float* x, V* out) {
  transpose16<kStride>(x, out);
  transpose16<kStride>(x + 16, out + 16);
}

}  // namespace lanes
}  // namespace
}  // namespace quern

#include "math/block_quantize_legacy-inl.hpp"

namespace quern {

BlockQuantizer block_quantizer_legacy_avx512() { return quantize_legacy; }

}  // namespace quern
