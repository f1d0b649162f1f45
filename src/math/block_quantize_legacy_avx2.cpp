// Quantizers of the legacy formats for AVX2 and F16C: eight blocks at a time.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "math/block_quantize.hpp"

namespace quern {
namespace {
namespace lanes {

#define QUERN_LANES_INLINE inline __attribute__((always_inline))

constexpr int kLanes = 8;
typedef float V __attribute__((vector_size(32)));
typedef std::int32_t I __attribute__((vector_size(32)));

QUERN_LANES_INLINE V splat(float x) { return _mm256_set1_ps(x); }
QUERN_LANES_INLINE I splat_i(std::int32_t x) { return reinterpret_cast<I>(_mm256_set1_epi32(x)); }
QUERN_LANES_INLINE V min(V a, V b) { return _mm256_min_ps(a, b); }
QUERN_LANES_INLINE V max(V a, V b) { return _mm256_max_ps(a, b); }
/// For exact results only, where that it rounds once makes no difference.
QUERN_LANES_INLINE V fused_multiply_add(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
QUERN_LANES_INLINE V load(const float* p) { return _mm256_loadu_ps(p); }
QUERN_LANES_INLINE void store(I x, std::int32_t* p) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(x));
}
QUERN_LANES_INLINE bool any(I mask) {
  return _mm256_testz_si256(reinterpret_cast<__m256i>(mask), reinterpret_cast<__m256i>(mask)) == 0;
}
QUERN_LANES_INLINE I f16_bits(V x) {
  return reinterpret_cast<I>(_mm256_cvtepu16_epi32(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)));
}
/// The low halves of eight numbers below 65536.
QUERN_LANES_INLINE __m128i low_halves(I bits) {
  const __m256i x = reinterpret_cast<__m256i>(bits);
  return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}
QUERN_LANES_INLINE V from_f16(I bits) { return _mm256_cvtph_ps(low_halves(bits)); }
QUERN_LANES_INLINE V look_up(const float (&table)[16], I index) {
  const __m256i i = reinterpret_cast<__m256i>(index);
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(table), i);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(table + 8), i);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}
/// Writes eight 16-bit numbers.
QUERN_LANES_INLINE void store_u16(I bits, std::byte* out) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), low_halves(bits));
}

/// out[j][lane] = x[kStride * lane + j] for j < 8.
template <int kStride>
QUERN_LANES_INLINE void transpose8(const float* x, V* out) {
  __m256 a[8];
  __m256 b[8];
  for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(x + kStride * i);
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xEE);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
  }
  for (int k = 0; k < 4; ++k) {
    out[k] = _mm256_permute2f128_ps(a[k], a[4 + k], 0x20);
    out[4 + k] = _mm256_permute2f128_ps(a[k], a[4 + k], 0x31);
  }
}

/// out[j][lane] = x[kStride * lane + j] for j < 32.
template <int kStride>
QUERN_LANES_INLINE void transpose32(const float* x, V* out) {
  for (int j = 0; j < 32; j += 8) transpose8<kStride>(x + j, out + j);
}

}  // namespace lanes
}  // namespace
}  // namespace quern

#include "math/block_quantize_legacy-inl.hpp"

namespace quern {

BlockQuantizer block_quantizer_legacy_avx2() { return quantize_legacy; }

}  // namespace quern
