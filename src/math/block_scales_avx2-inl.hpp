// Scales and minima of block formats, unpacked with vectors of at most 256 bits. Included by instruction-set files only.
namespace quern {
namespace {

inline std::uint32_t u32_at(const std::byte* p) {
  std::uint32_t v = 0;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline std::uint16_t u16_at(const std::byte* p) {
  std::uint16_t v = 0;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline int u8_at(const std::byte* p) { return static_cast<int>(*p); }
inline __m128i load16(const std::byte* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline __m256i load32(const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

/// A binary16 number in all lanes.
inline __m256 half_lanes(const std::byte* p) { return _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(u16_at(p)))); }

/// 2^(e - 128): half the scale that MXFP4's exponent means, for the table holds doubled values.
inline float mxfp4_scale(const std::byte* p) {
  const auto e = static_cast<std::uint32_t>(*p);
  return __builtin_bit_cast(float, e < 2 ? std::uint32_t{0x00200000} << e : (e - 1) << 23);
}

/// Eight bytes as floats, and as sixteen words, each twice.
inline __m256 bytes_to_floats(std::uint64_t bytes) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes))));
}
inline __m256i bytes_to_word_pairs(std::uint64_t bytes) {
  const __m128i v = _mm_cvtsi64_si128(static_cast<long long>(bytes));
  return _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(v, v));
}

inline std::uint64_t joined(std::uint32_t low, std::uint32_t high) {
  return static_cast<std::uint64_t>(low) | (static_cast<std::uint64_t>(high) << 32);
}

/// Eight scales and eight minima of six bits in the twelve bytes of Q4_K and Q5_K.
struct SixBitScales {
  std::uint64_t scales;
  std::uint64_t mins;
  explicit SixBitScales(const std::byte* p) {
    constexpr std::uint32_t kSix = 0x3f3f3f3fU;
    constexpr std::uint32_t kFour = 0x0f0f0f0fU;
    constexpr std::uint32_t kTop = 0x30303030U;
    const std::uint32_t a = u32_at(p);
    const std::uint32_t b = u32_at(p + 4);
    const std::uint32_t c = u32_at(p + 8);
    scales = joined(a & kSix, (c & kFour) | ((a >> 2) & kTop));
    mins = joined(b & kSix, ((c >> 4) & kFour) | ((b >> 2) & kTop));
  }
};

/// Sixteen signed scales in the twelve bytes of Q3_K.
inline __m128i q3_k_scales(const std::byte* p) {
  constexpr std::uint32_t kFour = 0x0f0f0f0fU;
  constexpr std::uint32_t kTop = 0x30303030U;
  const std::uint32_t a = u32_at(p);
  const std::uint32_t b = u32_at(p + 4);
  const std::uint32_t c = u32_at(p + 8);
  const std::uint64_t low = joined((a & kFour) | ((c << 4) & kTop), (b & kFour) | ((c << 2) & kTop));
  const std::uint64_t high = joined(((a >> 4) & kFour) | (c & kTop), ((b >> 4) & kFour) | ((c >> 2) & kTop));
  const __m128i packed = _mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(low));
  return _mm_sub_epi8(packed, _mm_set1_epi8(32));
}

/// Eight signed scales of IQ4_XS: four low bits each in the four bytes at `low`, two high bits each in `high`.
inline __m256 iq4_xs_scales(const std::byte* low, std::uint16_t high) {
  const __m256i low_shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
  const __m256i high_shifts = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
  const __m256i l = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(u32_at(low))), low_shifts);
  const __m256i h = _mm256_srlv_epi32(_mm256_set1_epi32(high), high_shifts);
  const __m256i scale = _mm256_or_si256(_mm256_and_si256(l, _mm256_set1_epi32(15)),
                                        _mm256_slli_epi32(_mm256_and_si256(h, _mm256_set1_epi32(3)), 4));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(scale, _mm256_set1_epi32(32)));
}

/// The sum of eight lanes, halves first.
inline float lane_sum(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
  return _mm_cvtss_f32(s);
}

}  // namespace
}  // namespace quern
