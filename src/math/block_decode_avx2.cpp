// Block decoders for AVX2 and F16C.
#include <immintrin.h>

#include <cstdint>

#include "math/block_decode.hpp"

namespace quern {
namespace {

struct Lanes {
  static void scaled(__m128i q, float scale, float* out) {
    const __m256 s = _mm256_set1_ps(scale);
    _mm256_storeu_ps(out, _mm256_mul_ps(first8(q), s));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(first8(_mm_srli_si128(q, 8)), s));
  }
  static void affine(__m128i q, float scale, float offset, float* out) {
    const __m256 s = _mm256_set1_ps(scale);
    const __m256 o = _mm256_set1_ps(offset);
    _mm256_storeu_ps(out, _mm256_fmadd_ps(first8(q), s, o));
    _mm256_storeu_ps(out + 8, _mm256_fmadd_ps(first8(_mm_srli_si128(q, 8)), s, o));
  }
  static void looked_up(const float (&table)[16], __m128i q, float scale, float* out) {
    const __m256 values = _mm256_mul_ps(_mm256_loadu_ps(table), _mm256_set1_ps(scale));
    const __m256i low = _mm256_cvtepu8_epi32(q);
    const __m256i high = _mm256_cvtepu8_epi32(_mm_srli_si128(q, 8));
    _mm256_storeu_ps(out, with_sign(_mm256_permutevar8x32_ps(values, low), low));
    _mm256_storeu_ps(out + 8, with_sign(_mm256_permutevar8x32_ps(values, high), high));
  }
  static std::int64_t f16(const std::uint8_t* x, std::int64_t n, float* y) {
    std::int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, _mm256_cvtph_ps(load8(x + 2 * i)));
    return i;
  }
  static std::int64_t bf16(const std::uint8_t* x, std::int64_t n, float* y) {
    std::int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(load8(x + 2 * i)), 16);
      _mm256_storeu_ps(y + i, _mm256_castsi256_ps(bits));
    }
    return i;
  }

 private:
  static __m128i load8(const std::uint8_t* x) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x)); }
  /// Negates the lanes whose bit 3 is set.
  static __m256 with_sign(__m256 values, __m256i codes) {
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(8)), 28);
    return _mm256_xor_ps(values, _mm256_castsi256_ps(sign));
  }
  static __m256 first8(__m128i q) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)); }
};

}  // namespace
}  // namespace quern

#include "math/block_decode_vector-inl.hpp"

namespace quern {

BlockDecoder block_decoder_avx2() { return decode; }

}  // namespace quern
