// Block decoders for AVX-512.

// False alarms inside GCC 12's intrinsics.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include <cstdint>

#include "math/block_decode.hpp"

namespace quern {
namespace {

struct Lanes {
  static void scaled(__m128i q, float scale, float* out) {
    _mm512_storeu_ps(out, _mm512_mul_ps(widened(q), _mm512_set1_ps(scale)));
  }
  static void affine(__m128i q, float scale, float offset, float* out) {
    _mm512_storeu_ps(out, _mm512_fmadd_ps(widened(q), _mm512_set1_ps(scale), _mm512_set1_ps(offset)));
  }
  static void looked_up(const float (&table)[16], __m128i q, float scale, float* out) {
    const __m512 values = _mm512_mul_ps(_mm512_loadu_ps(table), _mm512_set1_ps(scale));
    _mm512_storeu_ps(out, _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(q), values));
  }
  static std::int64_t f16(const std::uint8_t* x, std::int64_t n, float* y) {
    std::int64_t i = 0;
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(y + i, _mm512_cvtph_ps(load16(x + 2 * i)));
    return i;
  }
  static std::int64_t bf16(const std::uint8_t* x, std::int64_t n, float* y) {
    std::int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
      const __m512i bits = _mm512_slli_epi32(_mm512_cvtepu16_epi32(load16(x + 2 * i)), 16);
      _mm512_storeu_ps(y + i, _mm512_castsi512_ps(bits));
    }
    return i;
  }

 private:
  static __m256i load16(const std::uint8_t* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }
  static __m512 widened(__m128i q) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)); }
};

}  // namespace
}  // namespace quern

#include "math/block_decode_vector-inl.hpp"

namespace quern {

BlockDecoder block_decoder_avx512() { return decode; }

}  // namespace quern
