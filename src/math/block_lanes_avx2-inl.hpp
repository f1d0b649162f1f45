// Vectors whose 32-bit lanes are eight rows of a weight. Included by instruction-set files only, after
// block_scales_avx2-inl.hpp and block_ahead-inl.hpp.
namespace quern {
namespace {

constexpr int kRows = 8;  ///< lanes
using Ints = __m256i;
using Floats = __m256;

inline Ints load_ints(const void* p) { return _mm256_load_si256(static_cast<const Ints*>(p)); }
inline Ints load_ints_anywhere(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_ints(void* p, Ints v) { _mm256_store_si256(static_cast<Ints*>(p), v); }
inline Ints every_int(std::int32_t x) { return _mm256_set1_epi32(x); }
/// The four bytes at p in every lane.
inline Ints every_four(const std::int8_t* p) {
  std::int32_t four = 0;
  __builtin_memcpy(&four, p, sizeof four);
  return _mm256_set1_epi32(four);
}
inline Ints both(Ints a, Ints b) { return _mm256_and_si256(a, b); }
inline Ints either(Ints a, Ints b) { return _mm256_or_si256(a, b); }
inline Ints differs(Ints a, Ints b) { return _mm256_xor_si256(a, b); }
template <int kBits>
inline Ints up(Ints a) {
  return _mm256_slli_epi32(a, kBits);
}
template <int kBits>
inline Ints down(Ints a) {
  return _mm256_srli_epi32(a, kBits);
}
template <int kBits>
inline Ints down_signed(Ints a) {
  return _mm256_srai_epi32(a, kBits);
}
inline Ints subtract(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
inline Ints add_bytes(Ints a, Ints b) { return _mm256_add_epi8(a, b); }
/// Each byte (0 .. 15) replaced by that entry of the table.
inline Ints look_up(__m128i table, Ints index) { return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index); }
/// Bytes of each 16 by their place among them.
inline Ints shuffle_bytes(Ints v, __m128i index) { return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(index)); }

inline Floats load_floats(const float* p) { return _mm256_load_ps(p); }
inline void store_floats(float* p, Floats v) { _mm256_store_ps(p, v); }
inline void store_row_results(float* p, Floats v) { _mm256_storeu_ps(p, v); }
inline Floats every_float(float x) { return _mm256_set1_ps(x); }
inline Floats to_floats(Ints v) { return _mm256_cvtepi32_ps(v); }
inline Floats zero_floats() { return _mm256_setzero_ps(); }
inline Floats sum_of(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats product_of(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats add_product(Floats a, Floats b, Floats to) { return _mm256_fmadd_ps(a, b, to); }
inline Floats negated(Floats a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0F)); }

/// Eight binary16 numbers; those in the low halves of lanes.
inline Floats load_halves(const std::uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Floats low_halves(Ints v) {
  const Ints packed = _mm256_packus_epi32(_mm256_and_si256(v, _mm256_set1_epi32(0xffff)), _mm256_setzero_si256());
  return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}

inline Ints load_bytes_as_ints(const std::uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
/// Half of 2^(e - 127), subnormals included: (e - 1) << 23, but 2^21 << e below e = 2.
inline Floats mxfp4_scales(Ints e) {
  const Ints normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
  const Ints subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
  return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}

/// Eight rows of the same length: row i at at[i / 4] + (i % 4) * stride.
struct RowGroup {
  const std::byte* at[kRows / 4];
  std::size_t stride;
  BytesAhead* ahead;
  [[nodiscard]] const std::byte* row(int i) const { return at[i / 4] + static_cast<std::size_t>(i % 4) * stride; }
};

/// Sixteen bytes of each row, from `offset` on: column c holds bytes 4c .. 4c + 3 of every row.
inline void load_columns(const RowGroup& g, std::size_t offset, Ints (&column)[4]) {
  g.ahead->fetch<kRows / 8>();
  Ints half[4];  // rows j and j + 4
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    half[j] = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(g.row(j) + offset)), load16(g.row(j + 4) + offset), 1);
  }
  const Ints a = _mm256_unpacklo_epi32(half[0], half[1]);
  const Ints b = _mm256_unpackhi_epi32(half[0], half[1]);
  const Ints c = _mm256_unpacklo_epi32(half[2], half[3]);
  const Ints d = _mm256_unpackhi_epi32(half[2], half[3]);
  column[0] = _mm256_unpacklo_epi64(a, c);
  column[1] = _mm256_unpackhi_epi64(a, c);
  column[2] = _mm256_unpacklo_epi64(b, d);
  column[3] = _mm256_unpackhi_epi64(b, d);
}

}  // namespace
}  // namespace quern
