// Int8 activations with 256-bit vectors. Included by instruction-set files only.
namespace quern {
namespace {

/// Eight magnitudes as integers, whose order is that of the floats, NaN and infinity last.
inline __m256i magnitude_bits(__m256 x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)); }

inline std::uint32_t largest_lane(__m256i v) {
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(m));
}

void quantize_activations(const float* x, std::int64_t n, const ActivationRow& out) {
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // undoes what packing by halves does
  for (std::int64_t b = 0; b < n; b += kActivationBlock) {
    __m256 v[4];
    __m256i largest = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_loadu_ps(x + b + 8 * i);
      largest = _mm256_max_epi32(largest, magnitude_bits(v[i]));
    }
    const std::uint32_t bits = largest_lane(largest);
    const float most = __builtin_bit_cast(float, bits);
    const std::int64_t block = b / kActivationBlock;
    if (bits >= 0x7f800000U || most < kSmallestActivation) {
      out.scales[block] = bits >= 0x7f800000U ? __builtin_bit_cast(float, 0x7fc00000U) : 0.0F;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.values + b), _mm256_setzero_si256());
      out.sums[2 * block] = 0;
      out.sums[2 * block + 1] = 0;
      continue;
    }
    out.scales[block] = most / 127.0F;
    const __m256 inverse = _mm256_set1_ps(127.0F / most);
    __m256i q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    const __m256i low = _mm256_packs_epi32(q[0], q[1]);
    const __m256i high = _mm256_packs_epi32(q[2], q[3]);
    const __m256i values = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), in_order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.values + b), values);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), values);
    const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    __m256i sums = _mm256_add_epi32(fours, _mm256_shuffle_epi32(fours, 0x4e));
    sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0xb1));
    out.sums[2 * block] = static_cast<std::int16_t>(_mm256_cvtsi256_si32(sums));
    out.sums[2 * block + 1] = static_cast<std::int16_t>(_mm_cvtsi128_si32(_mm256_extracti128_si256(sums, 1)));
  }
}

}  // namespace
}  // namespace quern
